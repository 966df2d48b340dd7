"""Passages of n words that training rows share with held-out questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftplatform.data.compare.columns import Columns, Mapper, row_blocks
from ftplatform.data.compare.minhash import TEMPLATE_ROWS, TEMPLATE_SHARE
from ftplatform.data.compare.words import SYMBOL, ngrams, ranges

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]
_MOST_BITS = 30
"""The filter takes at most 128 MB; with 30 million held-out passages in it, 3 % of the others pass too."""
_MERGE_AT = 2_000_000


def passages(
    columns: Columns,
    rows: Rows,
    held_out: Sequence[tuple[Columns, Rows]],
    size: int,
    folder: Path,
    mapper: Mapper,
) -> Iterator[tuple[Rows, int, Rows]]:
    """Which of ``rows`` share ``size`` words in a row with a held-out question: (rows, number of the side, its rows).

    Symbols are passed over, so that rulers of tables are no passages. A passage that more than ``TEMPLATE_SHARE`` of the
    rows have (and more than ``TEMPLATE_ROWS``) is template text and does not count. Held-out questions shorter than ``size``
    words have no passage. A row may come more than once.

    Each side is read twice, whatever its size: a filter of the held-out passages names those of the rows that may be equal,
    these name the held-out ones that are, and these the rows. Memory grows with what both have in common.
    """
    path = folder / "passages.npy"
    count = sum(int(np.maximum(c.question_words[r] - size + 1, 0).sum(dtype=np.int64)) for c, r in held_out)
    if not count or not len(rows):
        return
    bits = min(_MOST_BITS, max(10, (32 * count).bit_length()))
    np.save(path, _filter(held_out, size, bits))
    possible = _counted(mapper(partial(possible_block, columns.folder, path, size, bits), row_blocks(columns, rows)))
    most = max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(rows))
    known, side, row = _known(held_out, size, possible[0][possible[1] <= most])
    if not len(known):
        return
    np.save(path, known)
    for found, at in mapper(partial(passage_block, columns.folder, path, size), row_blocks(columns, rows)):
        for number in range(len(held_out)):
            here = side[at] == number
            yield found[here], number, row[at[here]]


def possible_block(folder: Path, path: Path, size: int, bits: int, rows: Rows) -> tuple[Hashes, NDArray[np.int64]]:
    """The rows' passages that the filter lets through, and how many of the rows have each; for a process pool."""
    columns = Columns.open(folder)
    values, counts = _passages(columns, rows, _all_words(columns, rows), size)
    byte, bit = _slot(values, bits)
    passed = np.flatnonzero(np.load(path, mmap_mode="r")[byte] & bit)
    values, row = values[passed], np.repeat(np.arange(len(rows)), counts)[passed]
    order = np.lexsort((row, values))
    values, row = values[order], row[order]
    once = np.append(True, (values[1:] != values[:-1]) | (row[1:] != row[:-1]))[: len(values)]
    return np.unique(values[once], return_counts=True)


def passage_block(folder: Path, path: Path, size: int, rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """Pairs (row, index into the sorted passages of ``path``), the first of each row; for a process pool."""
    columns = Columns.open(folder)
    values, counts = _passages(columns, rows, _all_words(columns, rows), size)
    at, hit = _search(np.load(path, mmap_mode="r"), values)
    row, first = np.unique(np.repeat(np.arange(len(rows)), counts)[hit], return_index=True)
    return rows[row], at[hit][first]


def _filter(held_out: Sequence[tuple[Columns, Rows]], size: int, bits: int) -> NDArray[np.uint8]:
    out = np.zeros(1 << (bits - 3), np.uint8)
    for columns, rows in held_out:
        for block in row_blocks(columns, rows):
            byte, bit = _slot(_passages(columns, block, columns.question_words[block], size)[0], bits)
            np.bitwise_or.at(out, byte, bit)
    return out


def _counted(blocks: Iterable[tuple[Hashes, NDArray[np.int64]]]) -> tuple[Hashes, NDArray[np.int64]]:
    """Sorted passages of all blocks with the number of rows that have them."""
    total: tuple[Hashes, NDArray[np.int64]] = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
    waiting: list[tuple[Hashes, NDArray[np.int64]]] = []

    def merged() -> tuple[Hashes, NDArray[np.int64]]:
        values = np.concatenate([total[0], *(v for v, _ in waiting)])
        counts = np.concatenate([total[1], *(c for _, c in waiting)])
        values, place = np.unique(values, return_inverse=True)
        return values, np.bincount(place, counts, minlength=len(values)).astype(np.int64)

    for block in blocks:
        waiting.append(block)
        # As much waits as is merged already, so that merging stays linear in all.
        if sum(len(v) for v, _ in waiting) > max(_MERGE_AT, len(total[0])):
            total, waiting = merged(), []
    return merged()


def _known(
    held_out: Sequence[tuple[Columns, Rows]], size: int, possible: Hashes
) -> tuple[Hashes, NDArray[np.int8], Rows]:
    """The sorted held-out passages among ``possible``, and of each the side and row that has it first."""
    found, sides, owners = [], [], []
    for number, (columns, rows) in enumerate(held_out):
        for block in row_blocks(columns, rows):
            values, counts = _passages(columns, block, columns.question_words[block], size)
            _, hit = _search(possible, values)
            found.append(values[hit])
            owners.append(np.repeat(block, counts)[hit])
            sides.append(np.full(len(owners[-1]), number, np.int8))
    known, first = np.unique(np.concatenate(found), return_index=True)
    return known, np.concatenate(sides)[first], np.concatenate(owners)[first]


def _search(known: Hashes, values: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For every value where it would stand among the sorted ``known``, and whether it does."""
    if not len(known):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return at, known[at] == values


def _slot(values: Hashes, bits: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    place = values >> np.uint64(64 - bits)
    return (place >> np.uint64(3)).astype(np.int64), np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)


def _all_words(columns: Columns, rows: Rows) -> NDArray[np.int32]:
    return columns.question_words[rows] + columns.answer_words[rows]


def _passages(columns: Columns, rows: Rows, lengths: NDArray[np.int32], size: int) -> tuple[Hashes, NDArray[np.int64]]:
    wide = lengths.astype(np.int64)
    words = columns.words[ranges(columns.words_end[rows], wide)]
    plain = (words & SYMBOL) == 0
    owner = np.repeat(np.arange(len(rows)), wide)
    return ngrams(words[plain], np.bincount(owner[plain], minlength=len(rows)), size, short=False)
