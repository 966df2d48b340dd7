"""A plain text or markdown file -> documents: the whole file, or pieces of it cut between paragraphs."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from ftplatform.data.importing.containers import Stream, Unreadable
from ftplatform.data.importing.lines import BLOCK_BYTES, chunks, explain_decoding

LONGEST_DOCUMENT = 100_000
"""Characters, about 25,000 tokens: longer than most training contexts, and half of what a row may hold at most."""
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_BORDERS = (_PARAGRAPH, re.compile(r"\n"), re.compile(r"\s"))


def document_records(stream: Stream, size: int = BLOCK_BYTES) -> Iterator[tuple[int, str, int]]:
    """``(line, text, its length)`` of every piece, outer white space left out.

    A piece ends at the last paragraph border that leaves it half full or more, else at a line's end, a space, or where
    it must.

    Raises:
        Unreadable: a byte that is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, line, read = "", 1, 0
    problem: Unreadable | None = None
    for chunk in chunks(stream, size):
        try:
            text += decoder.decode(chunk)
        except UnicodeDecodeError as error:
            text += error.object[: error.start].decode()
            # The decoder puts the bytes of a character begun in the chunk before in front.
            place = read + len(chunk) - len(error.object) + error.start
            problem = Unreadable("not_utf8", explain_decoding(error.object, error, place))
        read += len(chunk)
        start = 0
        while len(text) - start > 2 * LONGEST_DOCUMENT:
            end = _cut(text, start)
            yield from _piece(text, start, end, line)
            line += text.count("\n", start, end)
            start = end
        text = text[start:]
        if problem:
            raise problem
    try:
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise Unreadable("truncated_file", "the file stops inside a character") from error
    start = 0
    while start < len(text):
        end = _cut(text, start) if len(text) - start > LONGEST_DOCUMENT else len(text)
        yield from _piece(text, start, end, line)
        line += text.count("\n", start, end)
        start = end


def _cut(text: str, start: int) -> int:
    half, end = start + LONGEST_DOCUMENT // 2, start + LONGEST_DOCUMENT
    for border in _BORDERS:
        if places := [found.end() for found in border.finditer(text, half, end)]:
            return places[-1]
    return end


def _piece(text: str, start: int, end: int, line: int) -> Iterator[tuple[int, str, int]]:
    piece = text[start:end]
    if stripped := piece.strip():
        before = len(piece) - len(piece.lstrip())
        yield line + piece.count("\n", 0, before), stripped, len(stripped)
