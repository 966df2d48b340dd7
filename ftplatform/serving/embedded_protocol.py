"""Request bodies of the OpenAI-style routes, and what of them this engine cannot do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ftplatform.core.rows import Message
from ftplatform.serving.desired import Kind, ServedModel
from ftplatform.serving.embedded_errors import bad_request
from ftplatform.serving.embedded_sequence import Sampling

MAX_LOGPROBS = 20

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},), "logit_bias": ({},), "presence_penalty": (0,), "frequency_penalty": (0,),
    "prediction": (), "audio": (), "modalities": (["text"],),
}  # fmt: skip
"""Fields that would change the answer, with the values under which they do not; others that OpenAI knows are ignored.
"""


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    ignore_eos: bool = False
    """vLLM's extension: go on to ``max_tokens`` whatever ends a turn."""
    return_token_ids: bool = False
    """vLLM's extension: each choice carries ``token_ids``, the ids drawn, the end of turn included."""

    @field_validator("temperature", "top_p", "stream", mode="before")
    @classmethod
    def _null_means_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    def refuse_unsupported(self) -> None:
        """Raises ApiError (400) for a parameter that would have to be ignored although it changes the answer."""
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
                allowed = ", ".join(repr(v) for v in _NEUTRAL[name]) or "none"
                raise bad_request(
                    f"{name}={value!r:.100} is not supported by this engine; accepted: {allowed}",
                    name,
                    "unsupported_parameter",
                )

    def sampling(
        self, prompt: int, limit: int, wanted: int | None, default: int | None, logprobs: int | None
    ) -> Sampling:
        """The sampling of a prompt of ``prompt`` tokens on a model of ``limit``; no ``default`` means the rest of the
        context.

        Raises:
            ApiError: 400 when it does not fit, or a stop string cannot be used.
        """
        if prompt == 0:
            raise bad_request("the prompt is empty", "prompt", "empty_prompt")
        room = limit - prompt
        tokens = wanted if wanted is not None else min(default or room, room)
        if room < 1 or tokens > room:
            raise bad_request(
                f"This model's maximum context length is {limit} tokens. However, you requested "
                f"{max(tokens, 1) + prompt} tokens ({prompt} in the prompt, {max(tokens, 1)} for the answer). "
                "Please shorten the prompt or the answer.",
                "messages" if default is None else "prompt",
                "context_length_exceeded",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > 4 or "" in stop:
            raise bad_request(f"stop: accepted are up to 4 strings that are not empty, found {stop!r:.200}", "stop")
        return Sampling(
            max_tokens=tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed, stop=stop,
            logprobs=logprobs, ignore_eos=self.ignore_eos,
        )  # fmt: skip


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(self.role, text)


class ChatRequest(_Request):
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs=true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Request):
    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    def one_prompt(self) -> str | list[int]:
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise bad_request(
                    f"prompt: found {len(prompt)} prompts, accepted is one per request",
                    "prompt",
                    "unsupported_parameter",
                )
            return prompt[0]
        return prompt  # type: ignore[return-value]


class LoadRequest(BaseModel):
    """vLLM's body, with ``lora_path`` a tree of the store (``tree:<digest>``), and what vLLM takes from its command
    line.
    """

    lora_name: str = Field(min_length=1)
    lora_path: str
    kind: Kind = "lora"
    base_weights: str | None = None
    """``tree:<digest>``; may be left out for an adapter while exactly one base is in memory, and for ``full`` and
    ``base``.
    """
    template: str | None = None
    fingerprint: str | None = None

    def wanted(self, bases: list[str]) -> ServedModel:
        weights = tree_digest(self.lora_path, "lora_path")
        if self.base_weights is not None:
            base = tree_digest(self.base_weights, "base_weights")
        elif self.kind != "lora":
            base = weights
        elif len(bases) == 1:
            base = bases[0]
        else:
            raise bad_request(
                f"base_weights is needed: {len(bases)} base models are in memory",
                "base_weights",
                "missing_required_parameter",
            )
        return ServedModel(
            name=self.lora_name,
            kind=self.kind,
            weights=weights,
            base_weights=base,
            template=self.template,
            fingerprint=self.fingerprint,
        )


class UnloadRequest(BaseModel):
    lora_name: str


def tree_digest(reference: str, param: str) -> str:
    scheme, _, digest = reference.partition(":")
    if scheme != "tree" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise bad_request(f"{param} {reference!r}: accepted is tree:<digest>, a folder in the platform's store", param)
    return digest
