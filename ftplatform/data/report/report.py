"""The row report: what an upload holds, everything that is wrong with it, and whether it is refused.

Findings stream: every one goes to a JSONL file as it comes, and memory holds counts and the findings that are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from ftplatform.core.rows import Finding
from ftplatform.data.report.problems import finding, is_whole, printable
from ftplatform.data.tables import markdown_table

SHOWN_FINDINGS = 20
KEPT_ERRORS = 500
KEPT_WARNINGS = 100
KEPT_PER_CODE = 3
"""Findings of a code that are kept although the errors or warnings before it filled their share."""

LEAST_ROWS = 10
"""The default of ``min_rows``, OpenAI's least number of examples. Who sets fewer needs no advice on small sets."""
FEW_ROWS = 50
"""OpenAI's guide sees clear improvements from 50 to 100 examples on."""


@dataclass(frozen=True, slots=True)
class FileReport:
    name: str
    role: str
    """``data``, ``validation`` or ``test``."""
    format: str
    read: int
    accepted: int
    bad: int
    """Rows with at least one error; a row with several is one."""
    detected_by: str = ""
    """What the format was recognised by, or that dataset.yaml says so."""


@dataclass(frozen=True, slots=True)
class RowReport:
    format: str
    """Formats found, joined by ``+`` when the files differ."""
    files: tuple[FileReport, ...]
    findings: tuple[Finding, ...]
    """What is shown: errors of whole files, then of rows, then warnings, each in the order found and up to a limit, at
    least one of every code. The complete list is in ``path``."""
    counts: dict[tuple[str, str], int]
    """(code, severity) -> findings of it in ``path``."""
    whole_errors: int
    """Errors of whole files; each refuses the upload."""
    max_bad_rows: int
    min_rows: int
    path: Path
    """Every finding, a JSON object per line, in the order of files and lines."""

    @property
    def rows(self) -> int:
        """Accepted rows of data files (the customer's validation and test rows not among them)."""
        return self._accepted("data")

    @property
    def validation_rows(self) -> int:
        return self._accepted("validation")

    @property
    def test_rows(self) -> int:
        return self._accepted("test")

    @property
    def accepted(self) -> int:
        return sum(f.accepted for f in self.files)

    @property
    def read(self) -> int:
        return sum(f.read for f in self.files)

    @property
    def bad_rows(self) -> int:
        return sum(f.bad for f in self.files)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def whole(self) -> tuple[Finding, ...]:
        """Errors of whole files, as far as they are shown."""
        return tuple(f for f in self.errors if is_whole(f))

    def count(self, severity: str) -> int:
        """All findings of a severity."""
        return sum(n for (_, s), n in self.counts.items() if s == severity)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the upload is refused, a sentence each; empty when it is accepted."""
        reasons = [_reason(f) for f in self.whole]
        if self.whole_errors > len(reasons):
            reasons.append(f"{self.whole_errors - len(reasons)} more files have problems of that kind.")
        if self.bad_rows > self.max_bad_rows:
            allowed = f"at most {self.max_bad_rows} may be" if self.max_bad_rows else "none may be (max_bad_rows: 0)"
            reasons.append(f"{self.bad_rows} of {self.read} rows are bad, {allowed}.")
        return tuple(reasons)

    @property
    def refused(self) -> bool:
        return self.whole_errors > 0 or self.bad_rows > self.max_bad_rows

    def summary(self) -> str:
        """A few sentences for the customer: the verdict, the counts, the commonest problems."""
        head = f"{'Refused' if self.refused else 'Accepted'}: {self.read} rows read from {len(self.files)} file(s)"
        head += f" ({self.format})" if self.format else ""
        head += f", {self.accepted} accepted, {self.bad_rows} bad."
        for rows, what in ((self.validation_rows, "validation"), (self.test_rows, "test")):
            if rows:
                head += f" {rows} of the accepted rows are your own {what} set."
        parts = [head, *self.reasons]
        if self.bad_rows and not self.refused:
            parts.append(f"The {self.bad_rows} bad rows are left out, as max_bad_rows: {self.max_bad_rows} allows.")
        first = next((f for f in self.errors if f.line), None)
        if first is not None:
            codes = Counter({code: n for (code, severity), n in self.counts.items() if severity == "error"})
            parts.append("Problems: " + ", ".join(f"{code} ({n})" for code, n in codes.most_common(5)) + ".")
            place = f" at {first.path}" if first.path else ""
            parts.append(
                f"First: {printable(first.file)} line {first.line}{place}: found {first.found}; "
                f"accepted is {first.accepted}."
            )
        if warnings := self.count("warning"):
            parts.append(f"{warnings} warning(s).")
        return " ".join(parts)

    def markdown(self) -> str:
        """How often each code was found, and the first 20 findings (errors first), as tables for Dagster metadata."""
        if not self.findings:
            return "No findings."
        shown = self.findings[:SHOWN_FINDINGS]
        rest = sum(self.counts.values()) - len(shown)
        parts = [self._codes()] if len(self.counts) > 1 or rest else []
        parts.append(
            markdown_table(
                [
                    {
                        "file": printable(f.file),
                        "line": f.line or "",
                        "severity": f.severity,
                        "code": f.code,
                        "where": f.path,
                        "found": f.found,
                        "accepted": f.accepted,
                        "fix": f.fix,
                    }
                    for f in shown
                ]
            )
        )
        if rest:
            parts.append(f"{rest} more in the report file.")
        return "\n\n".join(parts)

    def _codes(self) -> str:
        ordered = sorted(self.counts.items(), key=lambda item: (item[0][1] != "error", -item[1], item[0]))
        return markdown_table(
            [{"code": code, "severity": severity, "findings": n} for (code, severity), n in ordered], len(ordered)
        )

    def _accepted(self, role: str) -> int:
        return sum(f.accepted for f in self.files if f.role == role)


class ReportWriter:
    """Collects an upload's findings; all of them go to ``findings_path``, which is written anew.

    ``close`` adds ``too_few_examples`` when the data files together hold fewer usable rows than ``min_rows``, and the
    same as advice when they hold few.
    """

    def __init__(self, findings_path: Path, max_bad_rows: int, min_rows: int) -> None:
        self.path, self.max_bad_rows, self.min_rows = findings_path, max_bad_rows, min_rows
        self._stream = findings_path.open("wb")
        self._files: list[FileReport] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._whole: list[Finding] = []
        self._rows: list[Finding] = []
        self._warnings: list[Finding] = []
        self._whole_errors = 0

    def add(self, findings: Iterable[Finding]) -> None:
        """Note findings, in the order in which the report should list them."""
        for found in findings:
            if not found.file.isprintable():
                found = replace(found, file=printable(found.file))
            self._stream.write(orjson.dumps(found.to_json()) + b"\n")
            self._counts[found.code, found.severity] += 1
            if found.severity == "warning":
                self._keep(found, self._warnings, KEPT_WARNINGS)
            elif is_whole(found):
                self._whole_errors += 1
                self._keep(found, self._whole, KEPT_ERRORS)
            else:
                self._keep(found, self._rows, KEPT_ERRORS)

    def file(self, report: FileReport) -> None:
        """Note what was read from one file."""
        self._files.append(report)

    def close(self) -> RowReport:
        """Finish the file on disk and return the report."""
        usable = sum(f.accepted for f in self._files if f.role == "data")
        if usable < self.min_rows:
            self.add([finding("too_few_examples", "", 0, f"{usable} usable rows, min_rows is {self.min_rows}")])
        elif usable < FEW_ROWS and self.min_rows >= LEAST_ROWS:
            self.add([_few(usable)])
        self._stream.close()
        return RowReport(
            "+".join(sorted({f.format for f in self._files if f.format})),
            tuple(self._files),
            (*self._whole, *self._rows, *self._warnings),
            dict(sorted(self._counts.items())),
            self._whole_errors,
            self.max_bad_rows,
            self.min_rows,
            self.path,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _keep(self, found: Finding, kept: list[Finding], most: int) -> None:
        if len(kept) < most or self._counts[found.code, found.severity] <= KEPT_PER_CODE:
            kept.append(found)


def _few(rows: int) -> Finding:
    return finding(
        "too_few_examples",
        "",
        0,
        f"{rows} usable rows",
        severity="warning",
        accepted=f"{FEW_ROWS} to 100 examples or more, for an improvement to be seen",
        fix="add examples",
    )


def _reason(found: Finding) -> str:
    return f"{found.file or 'The upload'}: {found.found}; accepted is {found.accepted}. To fix it: {found.fix}."
