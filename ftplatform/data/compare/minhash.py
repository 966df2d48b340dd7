"""Word shingles of rows, what of them is template text, and MinHash bands that put similar rows into the same bucket.

A shingle is three words in a row (all of them in a text of one or two words). Texts whose shingle sets have Jaccard similarity s
agree in a MinHash value with probability s (Broder 1997), so in a band of r values with s^r, and in one of b bands at least
with 1 - (1 - s^r)^b.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftplatform.data.compare.columns import Columns, Mapper, row_blocks
from ftplatform.data.compare.words import mix, ngrams, ranges

SHINGLE_WORDS = 3
VALUES = 64
"""MinHash values of a row: with 6 in each of 10 bands, 99.1 % of the pairs at similarity 0.85 meet in a bucket."""
RECALL = 0.99
TEMPLATE_SHARE = 0.05
"""A shingle in more than this share of the rows, and in more than ``TEMPLATE_ROWS``, is template text."""
TEMPLATE_ROWS = 10
QUESTION, ANSWER, BOTH = "question", "answer", "both"
_ANSWER_MARK = np.uint64(0x5851F42D4C957F2D)
_SAMPLE_ROWS = 20_000
_SAMPLE_WORDS = 4_000_000


@dataclass(frozen=True, slots=True)
class Banding:
    bands: int
    values: int
    """MinHash values in a band."""

    @classmethod
    def of(cls, threshold: float) -> Banding:
        """The widest bands, so the fewest false candidates, that still find ``RECALL`` of the pairs at ``threshold``."""
        for values in range(VALUES, 1, -1):
            bands = VALUES // values
            if 1 - (1 - threshold**values) ** bands >= RECALL:
                return cls(bands, values)
        return cls(VALUES, 1)


def shingles(
    columns: Columns, rows: NDArray[np.int64], part: str, templates: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Shingles of the rows' ``part``, row after row, and how many each has; template text (sorted hashes) left out.

    A text that is nothing but template text has one shingle, the whole of it. Shingles of an answer are others than those
    of a question with the same words.
    """
    questions, answers = columns.question_words[rows].astype(np.int64), columns.answer_words[rows].astype(np.int64)
    begins = columns.words_end[rows]
    if part == BOTH:
        lengths = np.stack([questions, answers], axis=1).ravel()
        begins = np.stack([begins, begins + questions], axis=1).ravel()
    else:
        lengths = questions if part == QUESTION else answers
        begins = begins if part == QUESTION else begins + questions
    values, counts = ngrams(columns.words[ranges(begins, lengths)], lengths, SHINGLE_WORDS, short=True)
    if part == BOTH:
        marks = np.zeros(len(counts), np.uint64)
        marks[1::2] = _ANSWER_MARK
        values ^= np.repeat(marks, counts)
    elif part == ANSWER:
        values ^= _ANSWER_MARK
    if len(templates):
        values, counts = _without(values, counts, templates)
    return values, counts.reshape(-1, 2).sum(axis=1) if part == BOTH else counts


def template_shingles(columns: Columns, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sorted hashes of the shingles that more than ``TEMPLATE_SHARE`` of the rows have: instructions, greetings, labels.

    Counted on at most 20,000 rows (4 million words), evenly spaced. Without this, rows that share a long instruction and
    differ in a short question would be near duplicates of each other.
    """
    if not len(rows):
        return np.zeros(0, np.uint64)
    average = float((columns.words_end[-1] - columns.words_end[0]) / len(columns))
    most = max(1, min(_SAMPLE_ROWS, int(_SAMPLE_WORDS / max(average, 1.0))))
    sample = rows[:: -(-len(rows) // most)]
    values, counts = shingles(columns, sample, BOTH, np.zeros(0, np.uint64))
    _, once = np.unique(mix(values) + np.repeat(np.arange(len(sample), dtype=np.uint64), counts), return_index=True)
    found, in_rows = np.unique(values[once], return_counts=True)
    return found[in_rows > max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(sample))]


def band_block(
    folder: Path, part: str, templates: NDArray[np.uint64], banding: Banding, rows: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """(bands, len(rows)): the bands of some rows of the columns in ``folder``; top level, so that a process pool can call it."""
    values, counts = shingles(Columns.open(folder), rows, part, templates)
    return band_values(values, counts, banding)


def band_values(values: NDArray[np.uint64], counts: NDArray[np.int64], banding: Banding) -> NDArray[np.uint32]:
    """(bands, n): MinHash over each row's shingles, the values of a band hashed into one; 0 for a row without shingles."""
    some = counts > 0
    begins = (np.cumsum(counts) - counts)[some]
    out = np.zeros((banding.bands, len(counts)), np.uint32)
    if not len(begins):
        return out
    short = (values >> np.uint64(32)).astype(np.uint32)
    hashed = np.empty_like(short)
    factors, offsets = _coefficients()
    for band in range(banding.bands):
        joined = np.full(len(begins), band + 1, np.uint64)
        for i in range(band * banding.values, (band + 1) * banding.values):
            np.multiply(short, factors[i], out=hashed)
            hashed += offsets[i]
            joined = mix(joined ^ np.minimum.reduceat(hashed, begins))
        out[band, some] = (joined >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return out


def write_bands(
    columns: Columns,
    rows: NDArray[np.int64],
    part: str,
    templates: NDArray[np.uint64],
    banding: Banding,
    path: Path,
    mapper: Mapper,
) -> NDArray[np.uint32]:
    """(bands, len(rows)): the bands of ``rows`` in the file ``path``, four bytes each, mapped into memory."""
    if not len(rows):
        return np.zeros((banding.bands, 0), np.uint32)
    out = np.memmap(path, np.uint32, mode="w+", shape=(banding.bands, len(rows)))
    at = 0
    for block in mapper(partial(band_block, columns.folder, part, templates, banding), row_blocks(columns, rows)):
        out[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    return out


def _without(
    values: NDArray[np.uint64], counts: NDArray[np.int64], templates: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    found = np.minimum(np.searchsorted(templates, values), len(templates) - 1)
    own = templates[found] != values
    owner = np.repeat(np.arange(len(counts)), counts)
    bare = np.flatnonzero((np.bincount(owner[own], minlength=len(counts)) == 0) & (counts > 0))
    # The sum is that of all shingles: a bare text has its own place for it, its first shingle.
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    begins = (np.cumsum(counts) - counts)[bare]
    values = values.copy()
    values[begins] = mix(sums[begins + counts[bare]] - sums[begins])
    own[begins] = True
    return values[own], np.bincount(owner[own], minlength=len(counts))


def _coefficients() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    numbers = mix(np.arange(1, 2 * VALUES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return numbers[:VALUES].astype(np.uint32) | np.uint32(1), numbers[VALUES:].astype(np.uint32)
