"""Passages of n words that training rows share with held-out questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.data.compare.columns import Columns, Mapper, row_blocks
from ftplatform.data.compare.minhash import TEMPLATE_ROWS, TEMPLATE_SHARE
from ftplatform.data.compare.words import SYMBOL, ngrams, ranges

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]
_MOST_BITS = 30
"""The filter takes at most 128 MB; with 30 million held-out passages in it, 3 % of the others pass too."""
_PARTS = 64
"""Passages in common are sorted in so many parts: of a hundred million, 1.6 million at a time."""
_POSSIBLE, _SIDE = "passages-possible", "passages-side"


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
    these name the held-out ones that are, and these the rows. What both have in common stands on disk.
    """
    path = folder / "passages.npy"
    count = sum(int(np.maximum(c.question_words[r] - size + 1, 0).sum(dtype=np.int64)) for c, r in held_out)
    if not count or not len(rows):
        return
    bits = min(_MOST_BITS, max(10, (32 * count).bit_length()))
    np.save(path, _filter(held_out, size, bits))
    blocks = mapper(partial(possible_block, columns.folder, path, size, bits), row_blocks(columns, rows))
    possible = _possible(blocks, max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(rows)), folder)
    side, owner = _first_owners(held_out, size, possible, folder)
    known = int(np.count_nonzero(side >= 0))
    if not known:
        return
    for found, at in mapper(partial(passage_block, columns.folder, folder, size), row_blocks(columns, rows)):
        for number in range(len(held_out)):
            here = side[at] == number
            yield found[here], number, owner[at[here]].astype(np.int64)


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


def passage_block(folder: Path, at: Path, size: int, rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """Pairs (row, index into the sorted passages below ``at``), the first of each row that a held-out question has."""
    columns = Columns.open(folder)
    values, counts = _passages(columns, rows, _all_words(columns, rows), size)
    place, hit = _search(_mapped(at / _POSSIBLE, np.uint64), values)
    side = _mapped(at / _SIDE, np.int8)
    if len(side):
        hit &= side[place] >= 0
    row, first = np.unique(np.repeat(np.arange(len(rows)), counts)[hit], return_index=True)
    return rows[row], place[hit][first]


def _filter(held_out: Sequence[tuple[Columns, Rows]], size: int, bits: int) -> NDArray[np.uint8]:
    out = np.zeros(1 << (bits - 3), np.uint8)
    for columns, rows in held_out:
        for block in row_blocks(columns, rows):
            byte, bit = _slot(_passages(columns, block, columns.question_words[block], size)[0], bits)
            np.bitwise_or.at(out, byte, bit)
    return out


def _possible(blocks: Iterable[tuple[Hashes, NDArray[np.int64]]], most: float, folder: Path) -> Hashes:
    """The sorted passages of all blocks that at most ``most`` rows have, in a file.

    Sorted by parts of the value range, so that memory holds a part of them and never all.
    """
    bounds = np.arange(1, _PARTS, dtype=np.uint64) << np.uint64(64 - _PARTS.bit_length() + 1)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"passages-{part}").open("wb")) for part in range(_PARTS)]
        for values, counts in blocks:
            pairs = np.stack([values, counts.astype(np.uint64)], axis=1)
            for file, part in zip(files, np.split(pairs, np.searchsorted(values, bounds)), strict=True):
                file.write(part.tobytes())
    with (folder / _POSSIBLE).open("wb") as out:
        for file in files:
            pairs = np.fromfile(file.name, np.uint64).reshape(-1, 2)
            values, place = np.unique(pairs[:, 0], return_inverse=True)
            rows = np.bincount(place, pairs[:, 1], minlength=len(values))
            out.write(values[rows <= most].tobytes())
            Path(file.name).unlink()
    return _mapped(folder / _POSSIBLE, np.uint64)


def _first_owners(
    held_out: Sequence[tuple[Columns, Rows]], size: int, possible: Hashes, folder: Path
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """For every possible passage the side and the row of the first held-out question that has it; side -1 where none does.

    In files, because there can be several passages for every row.
    """
    if not len(possible):
        (folder / _SIDE).touch()
        return np.zeros(0, np.int8), np.zeros(0, np.int32)
    side = np.memmap(folder / _SIDE, np.int8, mode="w+", shape=possible.shape)
    owner = np.memmap(folder / "passages-owner", np.int32, mode="w+", shape=possible.shape)
    side[:] = -1
    for number, (columns, rows) in enumerate(held_out):
        for block in row_blocks(columns, rows):
            values, counts = _passages(columns, block, columns.question_words[block], size)
            at, hit = _search(possible, values)
            found, first = np.unique(at[hit], return_index=True)
            new = side[found] < 0
            side[found[new]] = number
            owner[found[new]] = np.repeat(block, counts)[hit][first[new]]
    side.flush()
    return side, owner


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


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
