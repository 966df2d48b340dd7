"""Automatic fixes of a text file: shown as a diff, written only to another file.

Only what needs no guess about the meaning of an example is fixed; everything else stays in the row report for a
person. Memory holds 8 bytes a line.
"""

from __future__ import annotations

import codecs
import csv
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.report.fix_line import fix_line

FIXES: dict[str, str] = {
    "utf8": "written as UTF-8",
    "latin1": "bytes that are not UTF-8 read as Latin-1 (Windows-1252): look whether the letters are right",
    "byte_order_mark": "byte order mark removed",
    "trailing_comma": "comma before a closing bracket or after the example removed",
    "empty_row": "row without any text removed",
    "duplicate_row": "row that repeats an earlier one exactly removed",
    "role_name": "role renamed to user or assistant",
    "weight_number": "weight written as 0 or 1",
    "trailing_turns": "turns after the last answer removed",
}
"""Name of a fix -> what was done."""

_JSON_LINES = (".jsonl", ".ndjson")
_TABLES = {".csv": ",", ".tsv": "\t"}
_PLAIN = (".json", ".txt", ".md")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST = 1 << 24
"""Characters of a line that is looked at; longer ones pass unchanged, in parts."""


@dataclass(frozen=True, slots=True)
class Change:
    """A record of the file (a line, or the lines of a CSV record) before and after."""

    line: int
    old: str
    new: str | None
    """``None``: left out."""
    fixes: tuple[str, ...] = ()
    part: bool = False
    """Whether it is a part of a line too long to be looked at."""


def require_text(name: str) -> str:
    """The end of the name of a file that can be fixed, in small letters.

    Raises:
        InvalidConfig: the file is of a type that is not text, such as Parquet or gzip.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in (accepted := (*_JSON_LINES, *_TABLES, *_PLAIN)):
        raise InvalidConfig(f"fix {name}: automatic fixes are for text files, accepted are {', '.join(accepted)}")
    return suffix


def changes(path: Path, name: str) -> Iterator[Change]:
    """Every record of the file, changed or not, in order.

    Raises:
        InvalidConfig: the file is not text, or its UTF-16 is damaged.
    """
    suffix = require_text(name)
    if suffix in _PLAIN:
        yield from _records(path, suffix)
        return
    repeated = _repeated(path, suffix)
    seen: set[bytes] = set()
    for record in _records(path, suffix):
        key = (record.new or "").strip()
        if not key or (suffix in _TABLES and record.line == 1) or _short(key) not in repeated:
            yield record
            continue
        # 64 bits only tell what to look at; whether it is the same row is decided by SHA-256.
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        if digest in seen:
            record = Change(record.line, record.old, None, ("duplicate_row",))
        seen.add(digest)
        yield record


def write_fixed(path: Path, name: str, output: Path) -> Counter[str]:
    """Write the fixed file to ``output``, which appears only when it is complete; how often each fix was applied."""
    applied: Counter[str] = Counter()
    part = output.with_name(output.name + ".part")
    with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        for change in changes(path, name):
            applied.update(change.fixes)
            if change.new is not None:
                stream.write(change.new)
        if _encoding(path) != "utf-8":
            applied["utf8"] += 1
    os.replace(part, output)
    return applied


def _records(path: Path, suffix: str) -> Iterator[Change]:
    """Records with the fixes of each alone."""
    lines = _lines(path)
    if suffix in _TABLES:
        yield from _table(lines, _TABLES[suffix])
        return
    for line in lines:
        if suffix in _PLAIN or line.part or line.new is None:
            yield line
            continue
        new, fixes = fix_line(line.new)
        yield Change(line.line, line.old, new, (*line.fixes, *fixes))


def _table(lines: Iterator[Change], delimiter: str) -> Iterator[Change]:
    """Lines joined to CSV records; those whose cells are all empty are left out."""
    pending: list[Change] = []

    def texts() -> Iterator[str]:
        for line in lines:
            pending.append(line)
            yield line.new or ""

    csv.field_size_limit(_LONGEST)
    reader = csv.reader(texts(), delimiter=delimiter)
    while True:
        try:
            empty = not any(cell.strip() for cell in next(reader))
        except StopIteration:
            return
        except csv.Error:
            empty = False  # the row report says what is wrong; the lines stay as they are
        old, new = "".join(p.old for p in pending), "".join(p.new or "" for p in pending)
        fixes = tuple(dict.fromkeys(fix for p in pending for fix in p.fixes))
        first = pending[0].line
        pending.clear()
        yield Change(first, old, None, ("empty_row",)) if empty else Change(first, old, new, fixes)


def _lines(path: Path) -> Iterator[Change]:
    """Lines with the fixes of encoding; what cannot be read passes as surrogates, byte for byte."""
    encoding = _encoding(path)
    if encoding == "utf-8":
        with path.open("rb") as stream:
            yield from _numbered(map(_decoded, iter(lambda: stream.readline(_LONGEST), b"")))
        return
    # `newline="\n"` splits at line feeds only and leaves every break as it is.
    with path.open(encoding=encoding, newline="\n") as text:
        try:
            yield from _numbered((line, line, ()) for line in iter(lambda: text.readline(_LONGEST), ""))
        except UnicodeDecodeError as error:
            raise InvalidConfig(
                f"fix {path.name}: it looks like {encoding.upper()}, but at byte {error.start + 1} it is not "
                f"({error.reason}). Accepted is UTF-8; save the file anew with the program that wrote it."
            ) from error


def _numbered(lines: Iterable[tuple[str, str, tuple[str, ...]]]) -> Iterator[Change]:
    number, inside = 1, False
    for old, new, fixes in lines:
        ended = old.endswith("\n")
        if number == 1 and not inside and new.startswith("\ufeff"):
            new, fixes = new[1:], (*fixes, "byte_order_mark")
        part = inside or (not ended and len(old) >= _LONGEST // 4)
        yield Change(number, old, new, fixes, part)
        number, inside = number + ended, not ended


def _decoded(raw: bytes) -> tuple[str, str, tuple[str, ...]]:
    """A line as it stands and as it is read."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        untouched = raw.decode("utf-8", "surrogateescape")
        cut = len(raw) >= _LONGEST or (not raw.endswith(b"\n") and error.reason == "unexpected end of data")
        try:
            latin = raw.decode("cp1252")
        except UnicodeDecodeError:
            return untouched, untouched, ()
        if cut or any(c < " " and c not in "\t\r\n" for c in latin):
            return untouched, untouched, ()
        return raw.decode("utf-8", "replace"), latin, ("latin1",)
    return text, text, ()


def _encoding(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(4096)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    # Text in Latin script has a zero in every second byte in UTF-16, and no zero at all in UTF-8.
    if len(head) >= 4 and head.count(0) > len(head) // 4:
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8"


def _repeated(path: Path, suffix: str) -> frozenset[int]:
    """Short keys that occur more than once."""
    import numpy as np

    keys = array("Q", (_short(key) for r in _records(path, suffix) if (key := (r.new or "").strip())))
    if not keys:
        return frozenset()
    values, counts = np.unique(np.frombuffer(keys, dtype=np.uint64), return_counts=True)
    return frozenset(values[counts > 1].tolist())


def _short(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
