"""Bytes of an upload -> decoded lines, one at a time, with what is wrong with each."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# UTF-32's little-endian mark begins with UTF-16's, so it is asked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32 (little endian)"),
    (codecs.BOM_UTF32_BE, "UTF-32 (big endian)"),
    (codecs.BOM_UTF16_LE, "UTF-16 (little endian)"),
    (codecs.BOM_UTF16_BE, "UTF-16 (big endian)"),
)
_MAGIC = (
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"PK\x03\x04", "a ZIP archive or office document"),
    (b"PAR1", "Parquet"),
)


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    text: str
    problem: str
    """Why the line is not UTF-8; empty when it is (``text`` then holds replacement characters)."""
    ended: bool
    """Whether a line break follows."""
    cut: bool = False
    """Whether the file ends inside a character of this line."""


def foreign_encoding(path: Path) -> str:
    """The name of an encoding or file type that is certainly not UTF-8 text; empty when the file may be UTF-8."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    for mark, name in (*_MARKS, *_MAGIC):
        if head.startswith(mark):
            return name
    # Text in Latin script has a zero in every second byte in UTF-16, and no zero at all in UTF-8.
    if len(head) >= 4 and head.count(0) > len(head) // 4:
        return "UTF-16 without byte order mark" if head[1] == 0 or head[0] == 0 else "binary data"
    return ""


def read_lines(path: Path) -> Iterator[Line]:
    """Every line of the file with its break kept, counted from 1; a byte order mark is dropped."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                yield Line(number, raw.decode("utf-8"), "", raw.endswith(b"\n"))
            except UnicodeDecodeError as error:
                ended = raw.endswith(b"\n")
                cut = not ended and error.reason == "unexpected end of data"
                yield Line(number, raw.decode("utf-8", "replace"), _explain(raw, error), ended, cut)


def _explain(raw: bytes, error: UnicodeDecodeError) -> str:
    at = f"byte 0x{raw[error.start]:02X} at position {error.start + 1} is not UTF-8"
    # Every byte is a Latin-1 character, so this is a guess from what such a byte would show.
    letter = bytes([raw[error.start]]).decode("cp1252", "replace")
    return f"{at}; as Latin-1 it would be {letter!r}" if letter.isprintable() else at
