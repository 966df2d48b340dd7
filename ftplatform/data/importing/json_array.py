"""A JSON list over a whole file -> its elements, one after the other, without holding the file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftplatform.data.importing import lines
from ftplatform.data.importing.containers import Stream, Unreadable
from ftplatform.data.importing.lines import Problem, chunks

# Everything up to the next bracket, whole strings skipped: possessive, so that a long text is walked once.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NEXT_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|' + _STRING + rb")*+[{}\[\]]", re.DOTALL)
# Between the elements a comma counts too.
_NEXT_BORDER = re.compile(rb'(?:[^"{}\[\],]++|' + _STRING + rb")*+[{}\[\],]", re.DOTALL)
_CLOSES = {ord("}"): ord("{"), ord("]"): ord("[")}


def array_records(stream: Stream, size: int = lines.BLOCK_BYTES) -> Iterator[tuple[int, bytes | Problem, int]]:
    """``(line, bytes of the element, their number)``; an element that is broken inside is left to who parses it.

    Raises:
        Unreadable: the list ends before it is closed, or where one element ends cannot be told.
    """
    buffer, start, scanned, line = b"", 0, 0, 1  # ``line`` is that of ``buffer[start]``
    opened = bytearray()
    begun = closed = False
    count = 0
    for chunk in chunks(stream, size):
        buffer, scanned, start = buffer[start:] + chunk, scanned - start, 0
        if closed:
            if buffer.strip():
                break
            continue
        if not begun:
            bracket = buffer.find(b"[")
            if bracket < 0:  # white space; the file's head holds the bracket, or it would not be read as a list
                continue
            begun, scanned = True, bracket + 1
            line, start = line + buffer.count(b"\n", 0, scanned), scanned
        while not closed and (found := (_NEXT_BRACKET if opened else _NEXT_BORDER).match(buffer, scanned)):
            scanned = found.end()
            border = buffer[scanned - 1]
            if border in b"{[":
                opened.append(border)
            elif opened and border != ord(","):
                if opened.pop() != _CLOSES[border]:
                    raise Unreadable(
                        "damaged_file", f"a {chr(border)!r} that closes another bracket, in the element of line {line}"
                    )
            elif border == ord("}"):
                raise Unreadable("damaged_file", f"a '}}' that closes nothing, on line {line} or below")
            else:
                closed = border == ord("]")
                piece = buffer[start : scanned - 1]
                element = piece.strip()
                if len(element) > lines.LONGEST_LINE:
                    raise _too_long()
                if element:
                    before = len(piece) - len(piece.lstrip())
                    yield line + piece.count(b"\n", 0, before), element, len(element)
                elif not closed or count:
                    yield line, Problem("invalid_json", "nothing between a comma and what follows it"), 0
                count += 1
                line, start = line + buffer.count(b"\n", start, scanned), scanned
        if not closed and len(buffer) - start > lines.LONGEST_LINE:
            raise _too_long()
    if not closed:
        raise Unreadable("truncated_file", f"a list that is never closed; what is not complete begins on line {line}")
    if buffer[start:].strip():
        raise Unreadable("damaged_file", f"more text after the end of the list, on line {line} or below")


def _too_long() -> Unreadable:
    return Unreadable(
        "line_too_long", f"an element of more than {lines.LONGEST_LINE:,} bytes; nothing after it was read"
    )
