"""Texts -> token ids and the mask of what is learned, many at a time.

A byte-level BPE tokenizer cuts a text at its added tokens, cuts the rest into words by a pattern, and encodes every
word by itself. Words repeat, so a table of words with their tokens does the work of the library's encoder at a few
times its speed: the pattern cuts, the table answers, numpy joins. The library's pattern engine (Oniguruma) and ours
(`regex`) agree on every character of Unicode 14 but U+0295; a text with another one, and every text of a tokenizer of
another build (SentencePiece, WordPiece), goes through the library. The ids are the library's own in all cases; one
text in `_SAMPLE` is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftplatform.data.tokens.ragged import ragged, starts_of, sums
from ftplatform.data.tokens.words import Ids, words_of

Spans = Sequence[tuple[int, int]]
_SAMPLE = 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of N texts, end to end."""

    ids: NDArray[np.int32]
    """[T]"""
    learned: NDArray[np.bool_]
    """[T]: the token holds a character of one of its text's spans."""
    lengths: NDArray[np.int64]
    """[N] tokens per text."""


class Encoder:
    """Not safe for use by several threads at a time: the table of words grows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = words_of(tokenizer)

    @property
    def by_words(self) -> bool:
        """Whether the tokenizer is one whose words can be looked up."""
        return self._words is not None

    def encode(self, texts: Sequence[str], spans: Sequence[Spans]) -> Encoded:
        """Encode without adding special tokens; ``spans`` are half-open character ranges, ascending, per text."""
        if self._words is None:
            return self._by_library(texts, spans)
        usable = self._words.usable(texts)
        fast = [text for text, ok in zip(texts, usable, strict=True) if ok]
        done, sizes = self._words.encode(fast)
        covered = _byte_mask(done, sizes, fast, [s for s, ok in zip(spans, usable, strict=True) if ok])
        if covered is None or not self._sample_agrees(fast, done):
            return self._by_library(texts, spans)
        encoded = Encoded(done.ids, covered, done.lengths)
        if usable.all():
            return encoded
        slow = np.flatnonzero(~usable).tolist()
        others = self._by_library([texts[i] for i in slow], [spans[i] for i in slow])
        places = np.argsort(np.concatenate([np.flatnonzero(usable), slow]), kind="stable")
        return take(join([encoded, others]), places)

    def _by_library(self, texts: Sequence[str], spans: Sequence[Spans]) -> Encoded:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        masks = [_char_mask(encoding.offsets, s) for encoding, s in zip(encodings, spans, strict=True)]
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        return Encoded(_concatenated(ids, np.int32), _concatenated(masks, np.bool_), lengths)

    def _sample_agrees(self, texts: Sequence[str], done: Ids) -> bool:
        starts = starts_of(done.lengths)
        return all(
            done.ids[starts[i] : starts[i] + done.lengths[i]].tolist()
            == self._tokenizer.encode(texts[i], add_special_tokens=False).ids
            for i in range(0, len(texts), _SAMPLE)
        )


def join(parts: Sequence[Encoded]) -> Encoded:
    """Texts of all parts, one after another."""
    return Encoded(
        _concatenated([p.ids for p in parts], np.int32),
        _concatenated([p.learned for p in parts], np.bool_),
        _concatenated([p.lengths for p in parts], np.int64),
    )


def take(encoded: Encoded, rows: NDArray[np.int64]) -> Encoded:
    """The texts with the numbers ``rows`` [M], in that order."""
    lengths = encoded.lengths[rows]
    at = ragged(starts_of(encoded.lengths)[rows], lengths)
    return Encoded(encoded.ids[at], encoded.learned[at], lengths)


def _byte_mask(
    done: Ids, sizes: NDArray[np.int64], texts: Sequence[str], spans: Sequence[Spans]
) -> NDArray[np.bool_] | None:
    """Which tokens hold a byte of a span; None when the tokens' bytes are not those of the texts, one for one."""
    text_sizes = np.array([len(t) if t.isascii() else len(t.encode()) for t in texts], dtype=np.int64)
    if not np.array_equal(sums(sizes, done.lengths), text_sizes):
        return None
    begins: list[int] = []
    ends: list[int] = []
    for text, base, its in zip(texts, starts_of(text_sizes).tolist(), spans, strict=True):
        plain = text.isascii()
        for start, end in its:
            begins.append(base + (start if plain else len(text[:start].encode())))
            ends.append(base + (end if plain else len(text[:end].encode())))
    token_ends = np.cumsum(sizes)
    token_starts = token_ends - sizes
    # The first token that ends after a span begins, up to the first that begins where it ends.
    first = np.searchsorted(token_ends, begins, side="right")
    last = np.searchsorted(token_starts, ends, side="left")
    edges = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.add.at(edges, first, 1)
    np.add.at(edges, np.maximum(last, first), -1)
    covered: NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return covered


def _char_mask(offsets: Sequence[tuple[int, int]], spans: Spans) -> NDArray[np.bool_]:
    """Which tokens hold a character of a span. Tokens without width (trimmed white space) count where they begin."""
    pairs = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0], np.maximum(pairs[:, 1], pairs[:, 0] + 1)
    mask = np.zeros(len(pairs), dtype=np.bool_)
    for start, end in spans:
        mask |= (starts < end) & (ends > start)
    return mask


def _concatenated(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
