"""The row report: what an upload holds, everything that is wrong with it, and whether it is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from ftplatform.core.rows import Finding
from ftplatform.data.problems import FILE_CODES
from ftplatform.data.tables import markdown_table

SHOWN_FINDINGS = 20


@dataclass(frozen=True, slots=True)
class FileReport:
    name: str
    role: str
    """``data`` or ``test``."""
    format: str
    read: int
    accepted: int
    bad: int


@dataclass(frozen=True, slots=True)
class RowReport:
    format: str
    """Formats found, joined by ``+`` when the files differ."""
    files: tuple[FileReport, ...]
    findings: tuple[Finding, ...]
    max_bad_rows: int
    min_rows: int

    @property
    def rows(self) -> int:
        """Accepted rows of data files (the customer's test rows not among them)."""
        return sum(f.accepted for f in self.files if f.role == "data")

    @property
    def test_rows(self) -> int:
        return sum(f.accepted for f in self.files if f.role == "test")

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
    def reasons(self) -> tuple[str, ...]:
        """Why the upload is refused, a sentence each; empty when it is accepted."""
        whole = [
            f"{f.file or 'The upload'}: {f.found}; accepted is {f.accepted}. To fix it: {f.fix}."
            for f in self.errors
            if f.line == 0 or f.code in FILE_CODES
        ]
        if self.bad_rows > self.max_bad_rows:
            allowed = f"at most {self.max_bad_rows} may be" if self.max_bad_rows else "none may be (max_bad_rows: 0)"
            whole.append(f"{self.bad_rows} of {self.read} rows are bad, {allowed}.")
        return tuple(whole)

    @property
    def refused(self) -> bool:
        return bool(self.reasons)

    def summary(self) -> str:
        """A few sentences for the customer: the verdict, the counts, the commonest problems."""
        head = f"{'Refused' if self.refused else 'Accepted'}: {self.read} rows read from {len(self.files)} file(s)"
        head += f" ({self.format})" if self.format else ""
        head += f", {self.rows + self.test_rows} accepted, {self.bad_rows} bad."
        if self.test_rows:
            head += f" {self.test_rows} of the accepted rows are your own test set."
        parts = [head, *self.reasons]
        if self.bad_rows and not self.refused:
            parts.append(f"The {self.bad_rows} bad rows are left out, as max_bad_rows: {self.max_bad_rows} allows.")
        codes = Counter(f.code for f in self.errors if f.line)
        if codes:
            parts.append("Problems: " + ", ".join(f"{code} ({n})" for code, n in codes.most_common(5)) + ".")
            first = next(f for f in self.errors if f.line)
            place = f" at {first.path}" if first.path else ""
            parts.append(
                f"First: {first.file} line {first.line}{place}: found {first.found}; accepted is {first.accepted}."
            )
        warnings = len(self.findings) - len(self.errors)
        if warnings:
            parts.append(f"{warnings} warning(s).")
        return " ".join(parts)

    def to_jsonl(self) -> bytes:
        """Every finding, a JSON object per line, in the order of files and lines; empty when nothing was found."""
        return b"".join(json.dumps(f.to_json(), ensure_ascii=False).encode() + b"\n" for f in self.findings)

    def markdown(self) -> str:
        """The first 20 findings (errors first) as a table for Dagster metadata, with a note on how many there are."""
        shown = sorted(self.findings, key=lambda f: f.severity != "error")[:SHOWN_FINDINGS]
        if not shown:
            return "No findings."
        table = markdown_table(
            [
                {
                    "file": f.file,
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
        rest = len(self.findings) - len(shown)
        return f"{table}\n\n{rest} more in the report file." if rest else table
