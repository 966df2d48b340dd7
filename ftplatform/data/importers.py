"""One uploaded file -> canonical rows, a line at a time, with a finding for everything that is wrong with it.

Nothing is repaired silently: a row is either taken as it stands or is bad, and every bad row is reported, not only
the first.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.rows import Finding, Message, Row
from ftplatform.data.conversation import from_pairs
from ftplatform.data.formats import JSONL_FORMATS, columns_of, detect_format, format_of, messages_of
from ftplatform.data.lines import Line, foreign_encoding, read_lines
from ftplatform.data.problems import finding

# The csv module's own limit of 131072 characters would make a long document unreadable; 16 MiB still stops a quote
# that is never closed from swallowing a file of any size.
_LONGEST_CELL = 1 << 24


@dataclass(slots=True)
class Imported:
    """What came of one file; filled while ``read_file`` runs."""

    name: str
    format: str = ""
    read: int = 0
    """Examples seen: rows + bad."""
    bad: int = 0
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    _noted: set[tuple[str, str]] = field(default_factory=set)

    def whole(self, code: str, found: object, **texts: Any) -> Imported:
        """Note a problem of the whole file."""
        self.findings.append(finding(code, self.name, 0, found, **texts))
        return self


class _Example:
    """Collects the problems of one example; ``bad`` once one of them is an error."""

    def __init__(self, file: Imported, line: int) -> None:
        self.file, self.line, self.bad = file, line, False
        file.read += 1

    def report(
        self,
        code: str,
        found: object,
        path: str = "",
        severity: Literal["error", "warning"] = "error",
        accepted: str = "",
    ) -> None:
        if code == "extra_column":  # the same in every line of a file: said once
            if (code, path) in self.file._noted:
                return
            self.file._noted.add((code, path))
        self.bad = self.bad or severity == "error"
        self.file.findings.append(finding(code, self.file.name, self.line, found, path, severity, accepted))

    def finish(self, messages: tuple[Message, ...], tags: dict[str, str]) -> None:
        if self.bad:
            self.file.bad += 1
        else:
            self.file.rows.append(Row(messages, f"{self.file.name}:{self.line}", tags))


def read_file(name: str, path: Path, config: DatasetConfig) -> Imported:
    """Import one ``.jsonl`` or ``.csv`` file.

    Raises:
        OSError: the file cannot be read; everything that is wrong with its content is a finding instead.
    """
    file = Imported(name)
    if path.stat().st_size == 0:
        return file.whole("empty_file", "0 bytes")
    if encoding := foreign_encoding(path):
        return file.whole("not_utf8", f"the file is {encoding}")
    if not any(line.text.strip() for line in read_lines(path)):
        return file.whole("empty_file", "only white space")
    detected, by = detect_format(path, name)
    if Path(name).suffix.lower() not in (".jsonl", ".csv"):
        return file.whole("unknown_format", by)
    wanted = config.format
    if wanted != "auto" and (wanted == "csv") != (detected == "csv"):
        return file.whole("unknown_format", f"dataset.yaml says {wanted}, but {by}")
    file.format = wanted if wanted != "auto" else detected
    if file.format == "csv":
        return _read_csv(file, path, config)
    if not file.format:
        # A file whose only fault is that it was cut off deserves to be called that.
        lines = [line for line in read_lines(path) if line.text.strip()]
        if len(lines) == 1 and not lines[0].ended and lines[0].text.lstrip().startswith("{") and _cut(lines[0].text):
            return file.whole("truncated_file", "a first line that stops in the middle of its JSON object")
        return file.whole("unknown_format", by)
    return _read_jsonl(file, path)


def _read_jsonl(file: Imported, path: Path) -> Imported:
    for line in read_lines(path):
        if not line.text.strip():
            continue
        example = _Example(file, line.number)
        messages: tuple[Message, ...] = ()
        value = _parse(line, example)
        if isinstance(value, dict):
            other = format_of(value)
            if other and other != file.format:
                example.report("mixed_formats", f"{other} in a file of {file.format}")
            else:
                messages = messages_of(value, file.format, example.report)
        elif not example.bad:
            example.report("data_type", value)
        example.finish(messages, _tags(value))
    return file


def _parse(line: Line, example: _Example) -> Any:
    if line.problem:
        found = "the last line stops inside a character" if line.cut else line.problem
        example.report("truncated_file" if line.cut else "not_utf8", found)
        return None
    try:
        return json.loads(line.text)
    except RecursionError:
        example.report("invalid_json", "lists or objects nested too deeply")
    except json.JSONDecodeError as error:
        if not line.ended and _cut(line.text):
            example.report(
                "truncated_file", f"the last line stops after {len(line.text)} characters, inside its JSON object"
            )
        else:
            around = line.text[max(0, error.pos - 20) : error.pos + 20].strip()
            example.report("invalid_json", f"{error.msg} at character {error.pos + 1}, near {around!r}")
    except ValueError as error:  # a whole number of more digits than Python converts
        example.report("invalid_json", str(error))
    return None


def _cut(text: str) -> bool:
    """Whether the JSON is right as far as it goes: the parser gave up at, or in a string that runs to, its end."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            return True
        # What is left is nothing, or the beginning of a number, true, false, null or escape.
        return error.msg != "Extra data" and re.fullmatch(r"[a-z0-9.+\\-]{0,8}\s*", text[error.pos :]) is not None
    except ValueError:
        return False
    return False


def _tags(value: Any) -> dict[str, str]:
    tags = value.get("tags") if isinstance(value, dict) else None
    return {str(k): str(v) for k, v in sorted(tags.items())} if isinstance(tags, dict) else {}


def _read_csv(file: Imported, path: Path, config: DatasetConfig) -> Imported:
    problems: dict[int, str] = {}
    last_ended = True

    def texts() -> Iterator[str]:
        nonlocal last_ended
        for line in read_lines(path):
            if line.problem:
                problems[line.number] = line.problem
            last_ended = line.ended
            yield line.text

    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(texts(), strict=True)
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        return file.whole("missing_column", f"a header that is not CSV: {error}")
    columns, missing = columns_of(header, config.columns)
    if columns is None:
        return file.whole("missing_column", missing)
    used = {columns.user, columns.assistant, columns.system, *columns.tags}
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            example = _Example(file, start)
            if "unexpected end of data" in str(error):
                example.report("truncated_file", f"a quoted cell opened in the record of line {start} is never closed")
            else:
                example.report("invalid_csv", str(error))
            example.finish((), {})
            continue
        if not any(cell.strip() for cell in cells):
            continue
        example = _Example(file, start)
        messages: tuple[Message, ...] = ()
        row = dict(zip(header, cells, strict=False))
        broken = next((problems[n] for n in range(start, reader.line_num + 1) if n in problems), "")
        if broken:
            example.report("not_utf8", broken)
        elif len(cells) < len(header) and not last_ended:
            example.report("truncated_file", f"the last line has {len(cells)} of {len(header)} cells and no line end")
        elif len(cells) != len(header):
            example.report("wrong_cell_count", f"{len(cells)} cells under {len(header)} columns")
        else:
            for name in header:
                if name not in used:
                    example.report("extra_column", name, path=name, severity="warning")
            parts: list[tuple[str, str, Any]] = [
                ("user", columns.user, row[columns.user]),
                ("assistant", columns.assistant, row[columns.assistant]),
            ]
            if columns.system and row[columns.system].strip():
                parts.insert(0, ("system", columns.system, row[columns.system]))
            messages = from_pairs(parts, example.report)
        example.finish(messages, {tag: row[tag] for tag in columns.tags if row.get(tag)})
    return file


__all__ = ["JSONL_FORMATS", "Imported", "detect_format", "read_file"]
