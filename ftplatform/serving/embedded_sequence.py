"""One answer under way: its tokens, its KV cache, its sampler, and the text it has given so far."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import DynamicCache

from ftplatform.serving.embedded_errors import ApiError, internal
from ftplatform.serving.embedded_served import Served
from ftplatform.serving.embedded_text import Decoder

GREEDY_BELOW = 1e-5
"""Temperatures below mean greedy: logits divided by less overflow."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """``logprobs``: None for none, else how many alternatives per token to report beside the one taken."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """``logprob`` in nats under the model's own distribution, before temperature and top_p."""

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Delta:
    """What was added since the last event; the last one of an answer carries ``finish`` or ``error``."""

    text: str
    tokens: list[Token]
    finish: FinishReason | None = None
    error: ApiError | None = None

    @property
    def last(self) -> bool:
        return self.finish is not None or self.error is not None


@dataclass(slots=True, eq=False)
class Sequence:
    """``emit`` is called on the engine's thread: for every piece of text when ``stream``, else once, at the end."""

    served: Served
    prompt: list[int]
    sampling: Sampling
    emit: Callable[[Delta], None]
    stream: bool = False
    cancelled: bool = False
    cache: DynamicCache = field(init=False)
    pending: list[int] = field(init=False)
    """Ids the model has not seen yet: the rest of the prompt, then the token just drawn."""
    ids: list[int] = field(init=False, default_factory=list)
    first_token_at: float | None = field(init=False, default=None)
    _generator: torch.Generator | None = field(init=False, default=None)
    _decoder: Decoder = field(init=False)
    _tokens: list[Token] = field(init=False, default_factory=list)
    _text: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.cache = DynamicCache(config=self.served.instance.config)
        self.pending = list(self.prompt)
        self._decoder = self.served.codec.decoder(self.sampling.stop)
        if self.sampling.temperature >= GREEDY_BELOW:
            seed = secrets.randbits(63) if self.sampling.seed is None else self.sampling.seed
            self._generator = torch.Generator().manual_seed(seed)

    def accept(self, logits: torch.Tensor) -> bool:
        """Draw the next token from ``logits`` (vocabulary,), report it, and say whether the answer is complete."""
        token = self._draw(logits.float())
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.ids.append(token.id)
        self.pending.append(token.id)
        self._tokens.append(token)
        ended = token.id in self.served.codec.end_ids and not self.sampling.ignore_eos
        if not ended:
            self._text += self._decoder.add(token.id)
        stopped = ended or self._decoder.stopped
        if stopped or len(self.ids) >= self.sampling.max_tokens:
            self._text += self._decoder.rest()
            self._report("stop" if stopped or self._decoder.stopped else "length")
            return True
        if self.stream and self._text:
            self._report(None)
        return False

    def fail(self, error: ApiError | None = None) -> None:
        self.emit(
            Delta("", [], error=error or internal("the engine failed while answering; its log has the traceback"))
        )

    def _report(self, finish: FinishReason | None) -> None:
        delta = Delta(self._text, self._tokens, finish)
        self._text, self._tokens = "", []
        self.emit(delta)

    def _draw(self, logits: torch.Tensor) -> Token:
        sampling = self.sampling
        if self._generator is None:
            token = int(logits.argmax())
        else:
            token = _sample(logits / sampling.temperature, sampling.top_p, self._generator)
        if sampling.logprobs is None:
            return Token(token, None)
        logprobs = torch.log_softmax(logits, dim=-1)
        best = torch.topk(logprobs, sampling.logprobs) if sampling.logprobs else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Token(token, float(logprobs[token]), top)


def _sample(logits: torch.Tensor, top_p: float, generator: torch.Generator) -> int:
    """Nucleus sampling: from the smallest set of tokens whose probability reaches ``top_p`` (Holtzman et al. 2020)."""
    probabilities = torch.softmax(logits, dim=-1)
    if top_p >= 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    ordered, indices = probabilities.sort(descending=True)
    ordered[(ordered.cumsum(0) - ordered) >= top_p] = 0
    return int(indices[torch.multinomial(ordered, 1, generator=generator)])
