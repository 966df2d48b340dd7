"""From split files to shards: only rows not seen before are tokenized, by several processes, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.rendering.chat_format import ChatFormat, load_chat_format
from ftplatform.data.tokens.row_cache import Keys, Sequences, TokenBook, keys_of
from ftplatform.data.tokens.shards import Layout, ShardWriter, Written
from ftplatform.data.tokens.tokenize import RowTokenizer, TokenBlock
from ftplatform.data.workers import Workers, map_ordered

BLOCK_ROWS = 2000
BLOCK_BYTES = 1 << 22
WINDOW_TOKENS = 1 << 22
"""Tokens packed at a time: about 200 MB at work, and what a window's last sequences leave empty is lost in it."""


@dataclass(frozen=True, slots=True)
class FileTokens:
    """The rows of one file, in its order."""

    keys: Keys
    kinds: frozenset[str]
    made: int
    """Rows that had to be tokenized; the others were known."""


def tokenize_file(book: TokenBook, text: Path, path: Path, workers: Workers = 1) -> FileTokens:
    """See to it that ``book`` knows every row of the canonical JSONL file ``path``.

    ``text`` is the folder with the base model's tokenizer and template, on a disk that every worker sees.

    Raises:
        DataRefused, InvalidConfig: as ``data.tokenize.RowTokenizer``.
    """
    before = book.index()
    keys: list[Keys] = []
    kinds: set[str] = set()

    def missing() -> Iterator[tuple[str, bytes]]:
        waiting: list[bytes] = []
        size = 0
        for block in read_blocks(path):
            lines = [line for line in block.split(b"\n") if line]
            if len(before.ordered):
                found, its_kinds = keys_of(lines)
                keys.append(found)
                kinds.update(its_kinds)
                lines = [lines[i] for i in np.flatnonzero(before.find(found) < 0)]
            for line in lines:
                waiting.append(line)
                size += len(line)
                if len(waiting) == BLOCK_ROWS or size >= BLOCK_BYTES:
                    yield str(text), b"\n".join(waiting)
                    waiting, size = [], 0
        if waiting:
            yield str(text), b"\n".join(waiting)

    made = 0
    for its_keys, its_kinds, tokens in map_ordered(_tokenize, missing(), workers):
        book.add(its_keys, tokens)
        made += len(its_keys)
        if not len(before.ordered):
            keys.append(its_keys)
            kinds |= its_kinds
    return FileTokens(np.concatenate([np.zeros(0, "S16"), *keys]), frozenset(kinds), made)


def _tokenize(item: tuple[str, bytes]) -> tuple[Keys, set[str], TokenBlock]:
    text, block = item
    keys, kinds = keys_of(block.split(b"\n"))
    return keys, kinds, _row_tokenizer(text)(rows_of(block))


@cache
def _row_tokenizer(text: str) -> RowTokenizer:
    """Once per process: a large tokenizer takes seconds to read."""
    found: ChatFormat = load_chat_format(Path(text))
    return RowTokenizer(found.tokenizer, found.template)


@dataclass(frozen=True, slots=True)
class SplitShards:
    written: Written
    figures: Sequences
    """Of the sequences that are in the shards, in the order of the rows asked for."""
    kept: NDArray[np.int64]
    """Places, among the rows asked for, of those in the shards."""
    too_long: NDArray[np.int64]
    """Places of those left out, whole."""
    longest: NDArray[np.int64]
    """Tokens of the longer sequence of each row in ``too_long``."""
    first: tuple[TokenBlock, ...]
    """The first few rows, one block each, to look at."""


def write_split(
    book: TokenBook, keys: Keys, layout: Layout, max_length: int, writer: ShardWriter, shown: int = 3
) -> SplitShards:
    """Gather the rows with these keys, in this order, leave out what is too long, and write the rest as shards.

    A document of the text layout is never too long: it is cut.
    """
    per_row = 2 if layout == "preference" else 1
    rows = book.rows(keys)
    figures = book.sequences()
    numbers = (rows[:, None] * per_row + np.arange(per_row)).reshape(-1)
    lengths = figures.lengths[numbers].reshape(-1, per_row)
    fits = (lengths > 0).all(1) & ((lengths <= max_length).all(1) | (layout == "text"))
    kept, too_long = np.flatnonzero(fits), np.flatnonzero(~fits)
    sequences = numbers.reshape(-1, per_row)[kept]
    ends = np.cumsum(lengths[kept].sum(1))
    # Windows end at rows, so that a pair is never in two files.
    borders = np.searchsorted(ends, np.arange(WINDOW_TOKENS, int(ends[-1]) if len(ends) else 0, WINDOW_TOKENS))
    for window in np.split(sequences, borders):
        if len(window):
            writer.add(book.take(window.reshape(-1), figures.lengths, per_row))
    flat = sequences.reshape(-1)
    return SplitShards(
        writer.close(),
        Sequences(figures.lengths[flat], figures.turns[flat], figures.supervised[flat], figures.stops[flat]),
        kept,
        too_long,
        lengths[too_long].max(1, initial=0),
        tuple(book.take(one, figures.lengths, per_row) for one in sequences[:shown]),
    )


def sources_of(files: Sequence[Path], places: Sequence[int]) -> dict[int, str]:
    """Where the rows at these places come from, counted over all files; reads the files again, so ask for few."""
    wanted, found, number = set(places), {}, 0
    for path in files:
        for block in read_blocks(path):
            for line in block.split(b"\n"):
                if line:
                    if number in wanted:
                        found[number] = orjson.loads(line)["source"]
                    number += 1
    return found


def tag_values(path: Path, tag: str) -> list[str]:
    """The value of one tag of every row, ``""`` where it has none."""
    values: list[str] = []
    for block in read_blocks(path):
        rows: list[dict[str, Any]] = [orjson.loads(line) for line in block.split(b"\n") if line]
        values += [row.get("tags", {}).get(tag, "") for row in rows]
    return values
