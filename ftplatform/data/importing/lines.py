"""Bytes of an upload -> blocks of records, in order, with the line each begins on; a long line never fills memory.

A block is what one worker works on. Where one ends depends on sizes alone and changes no result.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ftplatform.data.importing.containers import Stream, Unreadable

BLOCK_BYTES = 1 << 22
BLOCK_ROWS = 2000
LONGEST_LINE = 16 << 20
"""Bytes of one line, record or list element: a novel has 1 MB, and a block must fit into memory many times."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Stands in a block for a record that cannot be had."""

    code: str
    found: str
    last: bool = False
    """Whether nothing after it could be read, which no tolerance for bad rows covers."""


@dataclass(frozen=True, slots=True)
class Block:
    numbers: Sequence[int]
    """Line (in Parquet and Arrow: row) of each record, from 1."""
    records: Sequence[Any]
    """``bytes`` of a JSON value, cells of a table, ``str`` of a document; or a ``Problem``."""
    ended: bool = True
    """False when the last record is the end of the file without a line break behind it."""


def line_blocks(stream: Stream, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Lines without their ``\\n``; a byte order mark is dropped."""
    number, rest, dropped = 1, b"", 0
    for chunk in chunks(stream, size):
        pieces: list[Any] = (rest + chunk).split(b"\n")
        if dropped and len(pieces) > 1:
            pieces[0] = too_long(dropped + len(pieces[0]))
            dropped = 0
        rest = pieces.pop()
        if dropped or len(rest) > LONGEST_LINE:
            dropped, rest = dropped + len(rest), b""
        yield from cut(pieces, number)
        number += len(pieces)
    if dropped:
        yield Block((number,), (too_long(dropped),), ended=False)
    elif rest:
        yield Block((number,), (rest,), ended=False)


def chunks(stream: Stream, size: int) -> Iterator[bytes]:
    """The stream's bytes without their byte order mark, about ``size`` at a time."""
    head = b""
    while len(head) < len(codecs.BOM_UTF8) and (piece := stream.read(size)):
        head += piece
    if head := head.removeprefix(codecs.BOM_UTF8):
        yield head
    while piece := stream.read(size):
        yield piece


def cut(records: Sequence[Any], number: int) -> Iterator[Block]:
    """Records on lines of their own, the first on line ``number``, in blocks of bounded length."""
    for start in range(0, len(records), BLOCK_ROWS):
        part = records[start : start + BLOCK_ROWS]
        yield Block(range(number + start, number + start + len(part)), part)


def gather(records: Iterable[tuple[int, Any, int]], size: int = BLOCK_BYTES) -> Iterator[Block]:
    """``(line, record, bytes)`` in blocks of about ``size`` bytes; where reading stops, what was read comes first."""
    numbers: list[int] = []
    kept: list[Any] = []
    held = 0
    try:
        for number, record, length in records:
            numbers.append(number)
            kept.append(record)
            held += length
            if held >= size or len(kept) >= BLOCK_ROWS:
                yield Block(numbers, kept)
                numbers, kept, held = [], [], 0
    except Unreadable:
        if kept:
            yield Block(numbers, kept)
        raise
    if kept:
        yield Block(numbers, kept)


def too_long(length: int) -> Problem:
    return Problem("line_too_long", f"{length:,} bytes; at most {LONGEST_LINE:,} are read")


def explain_decoding(raw: bytes, error: UnicodeDecodeError, place: int | None = None) -> str:
    """What is wrong; ``place`` is where ``raw[error.start]`` stands, when that is not its place in ``raw``."""
    at = f"byte 0x{raw[error.start]:02X} at position {(error.start if place is None else place) + 1} is not UTF-8"
    # Every byte is a Latin-1 character, so this is a guess from what such a byte would show.
    letter = bytes([raw[error.start]]).decode("cp1252", "replace")
    return f"{at}; as Latin-1 it would be {letter!r}" if letter.isprintable() else at
