"""What ``ft dataset check`` prints: a report for people, or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import orjson
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.data.report.check import Checked
from ftplatform.data.report.problems import printable
from ftplatform.data.report.report import RowReport

FIXABLE = frozenset(
    {
        "not_utf8",
        "invalid_json",
        "unrecognized_role",
        "bad_weight",
        "last_message_not_assistant",
        "duplicate_row",
        "data_type",
        "missing_messages_list",
    }
)
"""Codes behind which there may be something that ``--fix`` can do."""


def print_json(checked: Checked, out: BinaryIO) -> None:
    """{format, rows, accepted, findings, pii, duplicates, languages}, written as the findings are read."""
    report = checked.report
    head = {"format": report.format, "rows": report.read, "accepted": report.accepted}
    tail = {"pii": checked.pii, "duplicates": checked.duplicates, "languages": checked.languages}
    out.write(orjson.dumps(head)[:-1] + b',"findings":[')
    with report.path.open("rb") as lines:
        for number, line in enumerate(lines):
            out.write((b"," if number else b"") + b"\n" + line.rstrip())
    out.write(b"]," + orjson.dumps(tail)[1:] + b"\n")
    out.flush()


def print_report(checked: Checked, settings: DatasetConfig, limit: int, files: list[Path]) -> None:
    """Verdict, files, counts by code, the first findings, and what curation will find."""
    report, console = checked.report, Console()
    verdict = Text("REFUSED", "bold red") if report.refused else Text("ACCEPTED", "bold green")
    console.print(
        Text.assemble(verdict, f"  {report.read:,} rows read, {report.accepted:,} accepted, {report.bad_rows:,} bad")
    )
    for reason in report.reasons:
        console.print(Text(f"  {reason}"), soft_wrap=True)
    if report.bad_rows and not report.refused:
        allowed = f"max_bad_rows: {report.max_bad_rows}"
        console.print(Text(f"  The {report.bad_rows} bad rows will be left out, as {allowed} allows.", "yellow"))
    for file in report.files:
        by = f" ({file.detected_by})" if file.detected_by else ""
        console.print(Text(f"  {printable(file.name)}: {file.format or 'format not recognised'}{by}"))
    _print_findings(report, limit, console)
    if settings.pii.policy != "off":
        found = ", ".join(f"{entity} {n:,}" for entity, n in checked.pii.items()) or "none found"
        console.print(Text(f"\nPersonal data and keys: {found} (policy: {settings.pii.policy})"))
        for example in checked.pii_examples[:3]:
            console.print(Text(f"  {example['source']}  {example['entity']}  {example['found']}", "dim"))
    console.print(Text(f"Duplicates: {checked.duplicates:,} rows repeat an earlier question and answer"))
    if checked.languages:
        shown = ", ".join(f"{code} {n:,}" for code, n in list(checked.languages.items())[:8])
        console.print(Text(f"Languages: {shown}"))
    if any(code in FIXABLE for code, _ in report.counts):
        names = " ".join(map(str, files))
        console.print(
            Text(f"\nSome of this may be fixed automatically; to see it: ft dataset check --diff {names}"),
            soft_wrap=True,
        )


def _print_findings(report: RowReport, limit: int, console: Console) -> None:
    total = sum(report.counts.values())
    if not total:
        return
    table = Table("code", "severity", Column("findings", justify="right"), title="\nFindings", title_justify="left")
    for (code, severity), number in sorted(report.counts.items(), key=lambda i: (i[0][1] != "error", -i[1], i[0])):
        table.add_row(code, severity, f"{number:,}")
    console.print(table)
    for f in report.findings[:limit]:
        place = (
            (printable(f.file) or "the upload") + (f":{f.line}" if f.line else "") + (f"  {f.path}" if f.path else "")
        )
        style = "red" if f.severity == "error" else "yellow"
        console.print(Text.assemble((f"{f.severity:7}", style), f"  {place}  ", (f.code, "bold")), soft_wrap=True)
        console.print(Text(f"         found {f.found}; accepted: {f.accepted}; fix: {f.fix}"), soft_wrap=True)
    if total > limit:
        console.print(
            Text(f"{total - min(limit, len(report.findings)):,} more: see --limit, --findings FILE, --html FILE", "dim")
        )
