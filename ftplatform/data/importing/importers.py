"""One uploaded file -> canonical rows, a block at a time, with a finding for everything that is wrong with it.

Nothing is repaired silently: a row is either taken as it stands or is bad, and every bad row is reported, not only
the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ftplatform.core.rows import Finding, Row
from ftplatform.data.blocks import line_of
from ftplatform.data.importing.columnar import batch_records
from ftplatform.data.importing.formats import FORMATS, mapped, other_format
from ftplatform.data.importing.json_values import Nothing, is_utf8, parse_json
from ftplatform.data.importing.lines import Block, Problem
from ftplatform.data.importing.opening import Reading, is_blank
from ftplatform.data.importing.row_findings import Report, RowFindings
from ftplatform.data.report.advice import Advice
from ftplatform.data.report.problems import FILE_CODES


@dataclass(slots=True)
class Imported:
    """What came of one block, or of the blocks of a file together."""

    canonical: bytes = b""
    """JSONL of the accepted rows."""
    read: int = 0
    """Examples seen: accepted + bad."""
    bad: int = 0
    findings: list[Finding] = field(default_factory=list)
    advice: Advice = field(default_factory=Advice)


def import_block(task: tuple[Reading, Block]) -> Imported:
    """The rows of one block."""
    reading, block = task
    done = Imported()
    found = RowFindings(reading.file)
    rows: list[Row] = []
    lines: list[bytes] = []
    read_row = _row_reader(reading, found.report)
    last = len(block.numbers) - 1
    records = batch_records(block.records) if isinstance(block.records, bytes) else block.records
    for i, (number, record) in enumerate(zip(block.numbers, records, strict=True)):
        found.begin(number)
        if type(record) is bytes:
            if is_blank(record):
                continue
            value = parse_json(record, block.ended or i < last, found.report)
        else:
            if isinstance(record, Problem) and record.last and record.code not in FILE_CODES:
                found.begin(0)
                record = Problem(record.code, f"from line {number} on, {record.found}")
            value = _value(record, reading, found.report)
        done.read += 1
        row = read_row(value, number) if value is not Nothing else None
        if row is None or found.bad:
            done.bad += 1
            continue
        lines.append(line_of(row))
        rows.append(row)
    done.advice.add(rows)
    done.canonical, done.findings = b"".join(lines), found.findings
    return done


def _value(record: Any, reading: Reading, report: Report) -> Any:
    if isinstance(record, Problem):
        report(record.code, record.found)
        return Nothing
    if isinstance(record, str):
        return {"text": record}
    if isinstance(record, list):
        return dict(zip(reading.header, record, strict=True))
    # Columns that other rows have, and fields that other structs of the column have, stand here as None.
    return _without_none(record)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


def _row_reader(reading: Reading, report: Report) -> Callable[[Any, int], Row | None]:
    columns_of_row: dict[str, str] = {}
    name, inner = reading.format, report
    if reading.columns is not None:
        name, columns_of_row = mapped(reading.columns)
        inner = _renamed(report, columns_of_row)
    form = FORMATS[name]
    used = frozenset({*columns_of_row.values(), *reading.tags, "tags"})
    # A quick look at the first name of each; where a format has several, the slow one decides.
    needed = frozenset(names[0] for names in form.required)
    known = frozenset(key for names in form.required for key in names) | form.optional | {"tags"} | set(reading.tags)

    def read(value: Any, number: int) -> Row | None:
        if not isinstance(value, dict):
            report("data_type", value)
            return None
        tags = _tags(value, reading.tags, report)
        if columns_of_row:
            if not used.issuperset(value):
                for key in sorted(set(value) - used):
                    report("extra_column", key, path=key, severity="warning")
            value = {key: value[column] for key, column in columns_of_row.items() if column in value}
        complete = needed.issubset(value) or not form.missing(value)
        if not columns_of_row:
            if other := other_format(value, name, complete, reading.detected):
                report("mixed_formats", f"{other} in a file of {name}")
                return None
            if not form.keeps_rest and not known.issuperset(value):
                for key in sorted(set(value) - known):
                    report("extra_column", key, path=key, severity="warning")
        if not complete:
            for names in form.missing(value):
                code = "missing_messages_list" if names[0] in ("messages", "conversations") else "message_missing_key"
                there = f"keys: {', '.join(map(str, value)) or '(none)'}"
                inner(code, there if names[0] == "messages" else f"no {names[0]!r}; {there}", path=names[0])
            return None
        return Row(source=f"{reading.file}:{number}", tags=tags, **form.read(value, inner))

    return read


def _renamed(report: Report, columns: dict[str, str]) -> Report:
    """``report`` with the customer's column names in the places."""

    def renamed(code: str, found: object, path: str = "", *rest: Any, **more: Any) -> None:
        key = path.partition("[")[0].partition(".")[0]
        report(code, found, columns[key] + path[len(key) :] if key in columns else path, *rest, **more)

    return renamed


def _tags(value: dict[str, Any], columns: tuple[str, ...], report: Report) -> dict[str, str]:
    given = value.get("tags")
    if given is None and not columns:
        return {}
    if not isinstance(given, dict | None) or "tags" in columns:
        if "tags" not in columns:
            report("data_type", given, path="tags", accepted="an object of names and values")
        given = {}
    both = {**(given or {}), **{column: value[column] for column in columns if value.get(column) not in (None, "")}}
    tags = {}
    for key, tag in sorted((str(key), str(tag)) for key, tag in both.items()):
        if not is_utf8(key) or not is_utf8(tag):
            report("not_utf8", "half of a surrogate pair", path="tags")
        tags[key] = tag
    return tags
