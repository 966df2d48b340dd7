"""Nearly equal rows: MinHash bands on disk propose pairs, the Jaccard similarity of the shingles themselves decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftplatform.data.compare.columns import Columns, Mapper
from ftplatform.data.compare.minhash import ANSWER, BOTH, QUESTION, Banding, shingles, template_shingles, write_bands
from ftplatform.data.compare.words import mix

Rows = NDArray[np.int64]
NEIGHBOURS = 8
"""Rows of a bucket that a row is compared with, besides the first: a bucket of any size costs linear time."""
_ROWS_AT_ONCE = 1_000_000
_PAIRS = 1 << 14
_PAIR_WORDS = 500_000
_MOST_SHINGLES = 20_000


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Rows that repeat an earlier one: each row of ``later`` once, ascending."""

    later: Rows
    earlier: Rows
    similarity: NDArray[np.float32]


def find_near(
    columns: Columns, among: NDArray[np.bool_], threshold: float, *, folder: Path, mapper: Mapper = map
) -> NearPairs:
    """Rows of the mask ``among`` whose question and whose answer are each similar to those of an earlier row.

    Similarity is the Jaccard index of word shingles, of the question or of the answer, whichever is lower; no pair is below
    ``threshold``. The earlier row may itself repeat one before it. ``folder`` takes the bands (40 bytes a row at 0.85) and
    is the caller's to delete.
    """
    rows = np.flatnonzero(among)
    templates = template_shingles(columns, rows)
    # Question and answer each at the threshold means that both together are: what the bands are made of.
    bands = write_bands(columns, rows, BOTH, templates, Banding.of(threshold), folder / "near-bands", mapper)
    earlier, similarity = np.full(len(rows), -1, np.int32), np.zeros(len(rows), np.float32)
    for band in bands:
        for late, early in _neighbours(np.asarray(band)):
            is_open = earlier[late] < 0
            late, early = late[is_open], early[is_open]
            like = jaccard(columns, rows[late], columns, rows[early], QUESTION, templates)
            close = like >= threshold
            late, early, like = late[close], early[close], like[close]
            like = np.minimum(like, jaccard(columns, rows[late], columns, rows[early], ANSWER, templates))
            close = like >= threshold
            earlier[late[close]], similarity[late[close]] = early[close], like[close]
    later = np.flatnonzero(earlier >= 0)
    return NearPairs(rows[later], rows[earlier[later]], similarity[later])


def jaccard(
    left: Columns,
    left_rows: Rows,
    right: Columns,
    right_rows: Rows,
    part: str,
    templates: NDArray[np.uint64],
) -> NDArray[np.float32]:
    """(p,): similarity of the shingle sets of p pairs of rows; two empty parts are equal.

    Exact up to 20,000 shingles; of a longer document an even sample of its shingles is compared, with a standard error below
    0.004.
    """
    out = np.empty(len(left_rows), np.float32)
    words = np.cumsum(_words(left, left_rows) + _words(right, right_rows))
    begin = 0
    while begin < len(out):
        done = words[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(words, done + _PAIR_WORDS, side="right")))
        end = min(end, begin + _PAIRS, len(out))
        out[begin:end] = _jaccard(
            shingles(left, left_rows[begin:end], part, templates),
            shingles(right, right_rows[begin:end], part, templates),
        )
        begin = end
    return out


def _jaccard(
    left: tuple[NDArray[np.uint64], NDArray[np.int64]], right: tuple[NDArray[np.uint64], NDArray[np.int64]]
) -> NDArray[np.float32]:
    pairs = len(left[1])
    thinned = np.maximum(left[1], right[1]) // _MOST_SHINGLES + 1
    sets: list[NDArray[np.uint64]] = []
    for values, counts in (left, right):
        # The pair in the upper 16 bits: one sort serves all pairs, and the 48 others make a false equality unlikely.
        hashed = mix(values) >> np.uint64(16)
        pair = np.repeat(np.arange(pairs, dtype=np.uint64), counts)
        if thinned.max(initial=1) > 1:
            some = hashed < np.repeat((2**48 - 1) // thinned, counts).astype(np.uint64)
            hashed, pair = hashed[some], pair[some]
        hashed |= pair << np.uint64(48)
        hashed.sort()
        sets.append(hashed[np.append(hashed[1:] != hashed[:-1], True)] if len(hashed) else hashed)
    size = [np.bincount(one >> np.uint64(48), minlength=pairs) for one in sets]
    common = np.intersect1d(sets[0], sets[1], assume_unique=True)
    shared = np.bincount(common >> np.uint64(48), minlength=pairs)
    either = size[0] + size[1] - shared
    return np.where(either == 0, 1.0, shared / np.maximum(either, 1)).astype(np.float32)


def _words(columns: Columns, rows: Rows) -> NDArray[np.int64]:
    return columns.question_words[rows].astype(np.int64) + columns.answer_words[rows]


def _neighbours(band: NDArray[np.uint32]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Pairs (later, earlier) of one bucket: each row with the ``NEIGHBOURS`` before it, then with the first."""
    order = np.argsort(band, kind="stable").astype(np.int32)
    values = band[order]
    empty = int(np.searchsorted(values, 0, side="right"))
    order, values = order[empty:], values[empty:]
    for distance in range(1, NEIGHBOURS + 1):
        some = False
        for begin in range(0, len(values) - distance, _ROWS_AT_ONCE):
            end = min(begin + _ROWS_AT_ONCE, len(values) - distance)
            same = np.flatnonzero(values[begin + distance : end + distance] == values[begin:end]) + begin
            some |= bool(len(same))
            yield order[same + distance], order[same]
        if not some:
            return
    for begin in range(0, len(values), _ROWS_AT_ONCE):
        part = values[begin : begin + _ROWS_AT_ONCE]
        first = np.searchsorted(values, part)
        far = np.flatnonzero(np.arange(begin, begin + len(part)) - first > NEIGHBOURS)
        yield order[far + begin], order[first[far]]
