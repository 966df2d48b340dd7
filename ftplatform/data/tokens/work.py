"""From split files to shards: only rows not seen before are tokenized, by several processes, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.tokens.base_text import BaseText, open_text
from ftplatform.data.tokens.figures import Figures, measure
from ftplatform.data.tokens.fitted import Fitted, fit
from ftplatform.data.tokens.row_cache import Keys, TokenBook, keys_of
from ftplatform.data.tokens.shards import Layout, ShardWriter, Written
from ftplatform.data.tokens.tokenize import TokenBlock
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


def tokenize_file(book: TokenBook, base: BaseText, path: Path, workers: Workers = 1) -> FileTokens:
    """See to it that ``book`` knows every row of the canonical JSONL file ``path``.

    Every worker reads the base model's tokenizer and template from the store by itself, once.

    Raises:
        DataRefused, InvalidConfig: as ``RowTokenizer``.
        NotFound: a worker cannot see the store: a folder of this machine, and the worker is on another.
    """
    before = book.index()
    keys: list[Keys] = []
    kinds: set[str] = set()

    def missing() -> Iterator[tuple[BaseText, bytes]]:
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
                    yield base, b"\n".join(waiting)
                    waiting, size = [], 0
        if waiting:
            yield base, b"\n".join(waiting)

    made = 0
    for its_keys, its_kinds, tokens, figures in map_ordered(_tokenize, missing(), workers):
        book.add(its_keys, tokens, figures)
        made += len(its_keys)
        if not len(before.ordered):
            keys.append(its_keys)
            kinds |= its_kinds
    return FileTokens(np.concatenate([np.zeros(0, "S16"), *keys]), frozenset(kinds), made)


def _tokenize(item: tuple[BaseText, bytes]) -> tuple[Keys, set[str], TokenBlock, Figures]:
    base, block = item
    keys, kinds = keys_of(block.split(b"\n"))
    tokenize, stop_ids = open_text(base)
    tokens = tokenize(rows_of(block))
    return keys, kinds, tokens, measure(tokens, stop_ids)


@dataclass(frozen=True, slots=True)
class SplitShards:
    written: Written
    rows: Fitted


def write_split(book: TokenBook, keys: Keys, layout: Layout, max_length: int, writer: ShardWriter) -> SplitShards:
    """Gather the rows with these keys, in this order, leave out what is too long, and write the rest as shards.

    A document of the text layout is never too long: it is cut.
    """
    numbers = book.rows(keys)
    rows = fit(book.figures(), numbers, layout, max_length)
    ends = np.cumsum(rows.figures.lengths.reshape(-1, rows.per_row).sum(1))
    # Windows end at rows, so that a pair is never in two files.
    borders = np.searchsorted(ends, np.arange(WINDOW_TOKENS, int(ends[-1]) if len(ends) else 0, WINDOW_TOKENS))
    for window in np.split(rows.sequences, borders * rows.per_row):
        if len(window):
            writer.add(book.take(window, rows.per_row))
    return SplitShards(writer.close(), rows)


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
        # One string per value and not per row: a million rows have a handful.
        values += [sys.intern(row.get("tags", {}).get(tag, "")) for row in rows]
    return values
