"""What OpenAI's clients read: completions, chunks, log-probabilities, usage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence as Items
from typing import Any, Literal

from ftplatform.serving.embedded_sequence import Delta, Token
from ftplatform.serving.embedded_text import TextCodec


class Answer:
    """The shape of one answer; ``kind`` is the route that was asked, ``model`` the immutable name that answers."""

    def __init__(
        self,
        kind: Literal["chat", "text"],
        model: str,
        codec: TextCodec,
        prompt_tokens: int,
        logprobs: bool,
        token_ids: bool,
    ) -> None:
        self._kind = kind
        self._codec = codec
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        self._offset = 0
        prefix = "chatcmpl-" if kind == "chat" else "cmpl-"
        self._head = {"id": prefix + secrets.token_hex(12), "created": int(time.time()), "model": model}

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The answer that was not streamed."""
        choice = self._choice(delta)
        if self._kind == "chat":
            choice["message"] = {"role": "assistant", "content": delta.text, "refusal": None}
            return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self.usage()}
        choice["text"] = delta.text
        return {**self._head, "object": "text_completion", "choices": [choice], "usage": self.usage()}

    def role(self) -> str | None:
        """The first chunk of a chat stream."""
        if self._kind == "text":
            return None
        return self._chunk(
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        )

    def chunk(self, delta: Delta) -> str:
        choice = self._choice(delta)
        if self._kind == "chat":
            choice["delta"] = {"content": delta.text} if delta.text or delta.finish is None else {}
        else:
            choice["text"] = delta.text
        return self._chunk(choice)

    def usage_chunk(self) -> str:
        return _event({**self._head, "object": self._object(), "choices": [], "usage": self.usage()})

    def usage(self) -> dict[str, int]:
        done = self._completion_tokens
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": done,
            "total_tokens": self._prompt_tokens + done,
        }

    def _object(self) -> str:
        return "chat.completion.chunk" if self._kind == "chat" else "text_completion"

    def _chunk(self, choice: dict[str, Any]) -> str:
        return _event({**self._head, "object": self._object(), "choices": [choice]})

    def _choice(self, delta: Delta) -> dict[str, Any]:
        self._completion_tokens += len(delta.tokens)
        choice: dict[str, Any] = {"index": 0, "finish_reason": delta.finish, "logprobs": None}
        if self._logprobs:
            choice["logprobs"] = (
                self._chat_logprobs(delta.tokens) if self._kind == "chat" else self._text_logprobs(delta.tokens)
            )
        if self._token_ids:
            choice["token_ids"] = [token.id for token in delta.tokens]
        return choice

    def _chat_logprobs(self, tokens: Items[Token]) -> dict[str, Any]:
        content = []
        for token in tokens:
            top = [self._entry(id, logprob) for id, logprob in token.top]
            content.append({**self._entry(token.id, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, id: int, logprob: float | None) -> dict[str, Any]:
        text, raw = self._codec.piece(id)
        return {"token": text, "logprob": logprob, "bytes": list(raw)}

    def _text_logprobs(self, tokens: Items[Token]) -> dict[str, Any]:
        pieces = [self._codec.piece(token.id)[0] for token in tokens]
        offsets = []
        for piece in pieces:
            offsets.append(self._offset)
            self._offset += len(piece)
        return {
            "tokens": pieces,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self._codec.piece(id)[0]: logprob for id, logprob in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_event(body: dict[str, Any]) -> str:
    """An error after the stream began: the status is sent already, so the client learns it from the body."""
    return _event(body)


DONE = "data: [DONE]\n\n"
