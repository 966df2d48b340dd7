"""A unified diff written while the file is read: ``difflib`` would hold both files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

CONTEXT = 3


def unified_diff(records: Iterable[tuple[str, str | None]], before: str, after: str) -> Iterator[str]:
    """Lines of a diff in the form of ``diff -u``, each with its break.

    ``records`` holds (old text, new text or ``None`` for a removed one) in order, each of one or more whole lines; a
    record whose two texts are equal is context. Nothing is given when nothing changed.
    """
    begun = False
    context: deque[str] = deque(maxlen=CONTEXT)
    hunk: list[str] = []
    quiet = 0  # unchanged lines at the end of the hunk
    old_line, new_line = 1, 1
    start = (1, 1)
    for old, new in records:
        old_lines, new_lines = _split(old), _split(new or "")
        if old == new:
            for line in old_lines:
                if hunk:
                    hunk.append(" " + line)
                    quiet += 1
                context.append(" " + line)
        else:
            if not hunk:
                start = (old_line - len(context), new_line - len(context))
                hunk = list(context)
            quiet = 0
            hunk += ["-" + line for line in old_lines] + ["+" + line for line in new_lines]
            context.clear()
        old_line += len(old_lines)
        new_line += len(new_lines)
        if quiet > 2 * CONTEXT:
            if not begun:
                yield from _names(before, after)
                begun = True
            yield from _hunk(hunk[: len(hunk) - quiet + CONTEXT], start)
            hunk = []
            quiet = 0
    if hunk:
        if not begun:
            yield from _names(before, after)
        yield from _hunk(hunk[: len(hunk) - max(0, quiet - CONTEXT)], start)


def _split(text: str) -> list[str]:
    """Lines with their breaks; ``splitlines`` would also break at separators that are part of a text."""
    *whole, rest = text.split("\n")
    return [line + "\n" for line in whole] + ([rest] if rest else [])


def _names(before: str, after: str) -> Iterator[str]:
    yield f"--- {before}\n"
    yield f"+++ {after}\n"


def _hunk(lines: list[str], start: tuple[int, int]) -> Iterator[str]:
    old = sum(line[0] != "+" for line in lines)
    new = sum(line[0] != "-" for line in lines)
    # A side without lines is named by the line before it.
    yield f"@@ -{start[0] - (not old)},{old} +{start[1] - (not new)},{new} @@\n"
    for line in lines:
        yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
