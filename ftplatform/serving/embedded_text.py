"""Text to ids and back, as training did it: the model folder's own tokenizer and chat template."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message
from ftplatform.data.rendering.chat_format import ChatFormat, load_chat_format
from ftplatform.data.tokens.tokenize import control_tokens
from ftplatform.serving.embedded_errors import bad_request


class TextCodec:
    """One model folder's tokenizer, template and end-of-turn ids. Safe to use from several threads."""

    def __init__(self, format: ChatFormat) -> None:
        self.end_ids = format.stop_ids
        self.template_digest = format.template.digest
        self._template = format.template
        # A template notes its pieces in itself while it renders.
        self._rendering = threading.Lock()
        self._tokenizer = format.tokenizer
        self._byte_level = (json.loads(format.tokenizer.to_str())["decoder"] or {}).get("type") == "ByteLevel"
        self._added = format.tokenizer.get_added_tokens_decoder().keys()
        self._control = {
            format.tokenizer.token_to_id(text): text for text in control_tokens(format.tokenizer, format.template)
        }

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of the conversation up to where the assistant answers, the same that training has for it.

        Raises:
            ApiError: 400 when the template refuses the conversation, or a message holds a control token: encoded as one
            it would
                let a user write the system's turn, and encoded as text it would be ids that training, which refuses it
                too, never saw.
        """
        for index, message in enumerate(messages):
            self._refuse_control(message.content, f"messages[{index}].content")
        try:
            with self._rendering:
                text = self._template.render(messages, add_generation_prompt=True)
        except InvalidConfig as error:
            raise bad_request(str(error), "messages", "refused_by_chat_template") from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def prompt_ids(self, text: str) -> list[int]:
        """A raw prompt, with what the tokenizer itself puts around a text; control tokens count as such."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decoder(self, stop: tuple[str, ...] = ()) -> Decoder:
        return Decoder(self._tokenizer, stop)

    def piece(self, token: int) -> tuple[str, bytes]:
        """A token alone as (text, bytes); text that is not whole UTF-8 reads ``bytes:\\xe2...`` as in OpenAI's
        completions.
        """
        if self._byte_level and token not in self._added:
            raw = bytes(_BYTE_OF[char] for char in self._tokenizer.id_to_token(token) or "")
        else:
            raw = self._tokenizer.decode([token], skip_special_tokens=False).encode()
        try:
            return raw.decode(), raw
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw

    def _refuse_control(self, content: str, param: str) -> None:
        # In the ids too, because a tokenizer may normalise a lookalike into the token.
        ids = set(self._tokenizer.encode(content, add_special_tokens=False).ids)
        if found := [text for id, text in self._control.items() if id in ids or text in content]:
            names = ", ".join(sorted(found))
            raise bad_request(
                f"{param} holds the model's control token {names}; remove it", param, "control_token_in_content"
            )


def load_codec(folder: Path) -> TextCodec:
    """The codec of a Hugging Face folder; raises InvalidConfig as `load_chat_format` does."""
    return TextCodec(load_chat_format(folder))


class Decoder:
    """Ids to text as they come, holding back half a character and what may become a stop string.

    Two windows over the last ids are decoded per token, so the cost does not grow with the answer; a tokenizer that
    joins words with a space needs the earlier window to know the joint (the method of text-generation-inference and
    vLLM).
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._start = 0
        self._read = 0
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Text that is certain after ``token``; ``stopped`` is True once a stop string was met, which is not part of
        the text.
        """
        self._ids.append(token)
        self._held += self._new_text(final=False)
        return self._release(final=False)

    def rest(self) -> str:
        """What was held back, at the end of the answer."""
        if not self.stopped:
            self._held += self._new_text(final=True)
        return self._release(final=True)

    def _new_text(self, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._start : self._read])
        after = self._tokenizer.decode(self._ids[self._start :])
        if len(after) <= len(before) or (after.endswith("\ufffd") and not final):
            return ""
        self._start, self._read = self._read, len(self._ids)
        text: str = after[len(before) :]
        return text

    def _release(self, final: bool) -> str:
        if self.stopped:
            return ""
        met = [place for place in (self._held.find(stop) for stop in self._stop) if place >= 0]
        if met:
            self.stopped = True
            text, self._held = self._held[: min(met)], ""
            return text
        keep = 0 if final else max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, as used by every byte-level BPE."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
