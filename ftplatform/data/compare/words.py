"""Texts as arrays of hashed words, a block of texts at a time: what shingles and n-grams are made of.

A word is a run of letters, marks and digits. A character of a script that is written without spaces (Chinese, Japanese, Thai,
Lao, Khmer, Burmese, Tibetan) is a word of its own, and so is a symbol (``2+2`` and ``2-2`` differ); the punctuation of
sentences is nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

_SEPARATOR, _LETTER, _CHARACTER, _SYMBOL = range(4)
_SENTENCE = ".,;:!?'\"`()…¿¡«»“”‘’‚„、。，；：！？「」『』（）·،؛؟।॥"
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_BASE = np.uint64(0x9E3779B97F4A7C15)
SYMBOL = np.uint32(1)
"""The bit of a word's hash that says that it is a symbol."""


def hash_words(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The words of all texts, one after the other, and how many each text has.

    ``texts`` are already normalised. A hash has 31 bits of the word and one that tells symbols from words.
    """
    joined = "\n".join(texts)
    points = np.frombuffer(joined.encode("utf-32-le"), dtype="<u4")
    kinds = _kinds()[points]
    starts = kinds >= _CHARACTER
    letters = kinds == _LETTER
    starts[:1] |= letters[:1]
    starts[1:] |= letters[1:] & ~letters[:-1]
    at = np.flatnonzero(starts)
    if not len(at):
        return np.zeros(0, np.uint32), np.zeros(len(texts), np.int64)
    lengths = np.diff(at, append=len(points))
    first = int(at[0])
    within = np.arange(first, len(points)) - np.repeat(at, lengths)
    values = (points[first:].astype(np.uint64) + np.uint64(1)) * _powers(int(lengths.max()))[within]
    values[kinds[first:] == _SEPARATOR] = 0
    hashed = mix(np.add.reduceat(values, at - first))
    words = (hashed >> np.uint64(32)).astype(np.uint32) & ~SYMBOL
    words |= (kinds[at] == _SYMBOL).astype(np.uint32)
    ends = np.cumsum([len(text) + 1 for text in texts])
    counts = np.diff(np.searchsorted(at, ends), prepend=0)
    return words, counts


def ngrams(
    words: NDArray[np.uint32], counts: NDArray[np.int64], size: int, *, short: bool
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hash of every run of ``size`` words inside each text, and how many each text has.

    With ``short`` a text of fewer words, but at least one, has one: of all its words. Without, it has none.
    """
    counts = np.asarray(counts, np.int64)
    ends = np.cumsum(counts)
    begins = ends - counts
    full = np.maximum(counts - size + 1, 0)
    rolled = _rolled(words, size)
    if not short:
        return rolled[ranges(begins, full)], full
    made = np.where((counts > 0) & (full == 0), 1, full)
    out = np.empty(int(made.sum()), np.uint64)
    target = np.cumsum(made) - made
    is_short = (counts > 0) & (full == 0)
    rows = np.flatnonzero(~is_short)
    out[ranges(target[rows], full[rows])] = rolled[ranges(begins[rows], full[rows])]
    for length in range(1, size):
        rows = np.flatnonzero(counts == length)
        if len(rows):
            out[target[rows]] = _rolled(words, length)[begins[rows]]
    return out, made


def ranges(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``begins[i] ... begins[i] + lengths[i] - 1`` for every i, one after the other."""
    ends = np.cumsum(lengths)
    shifts: NDArray[np.int64] = np.repeat(begins - (ends - lengths), lengths)
    return np.arange(len(shifts)) + shifts


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every input bit changes every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _rolled(words: NDArray[np.uint32], size: int) -> NDArray[np.uint64]:
    """For every word, the hash of it and the next ``size - 1``; the last ``size - 1`` mean nothing."""
    values = words.astype(np.uint64)
    total = values + np.uint64(size)
    for step in range(1, size):
        total *= _BASE
        total[:-step] += values[step:]
    return mix(total)


def _powers(count: int) -> NDArray[np.uint64]:
    return np.cumprod(np.full(count, _BASE, np.uint64), dtype=np.uint64)


@cache
def _kinds() -> NDArray[np.uint8]:
    """What every code point is; takes 0.3 s, once per process."""
    table = np.full(0x110000, _SEPARATOR, np.uint8)
    for point in range(0x110000):
        category = unicodedata.category(chr(point))[0]
        if category in "LMN":
            table[point] = _LETTER
        elif category in "PS":
            table[point] = _SYMBOL
    for low, high in _WITHOUT_SPACES:
        part = table[low : high + 1]
        part[part == _LETTER] = _CHARACTER
    table[[ord(c) for c in _SENTENCE]] = _SEPARATOR
    return table
