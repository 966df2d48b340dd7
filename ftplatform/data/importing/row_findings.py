"""What a reader of one row reports to."""

from __future__ import annotations

from typing import Literal, Protocol

from ftplatform.core.rows import Finding
from ftplatform.data.report.problems import finding
from ftplatform.data.text import shorten

MOST_PER_ROW = 50
"""Findings listed of one row: a line of 16 MB can have a million, and nobody reads them."""


class Report(Protocol):
    def __call__(
        self,
        code: str,
        found: object,
        path: str = "",
        severity: Literal["error", "warning"] = "error",
        accepted: str = "",
    ) -> None: ...


class RowFindings:
    """The problems of one row after the other; ``bad`` once one of the row at hand is an error."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.line = 0
        self.bad = False
        self._of_row = 0
        self._said: set[str] = set()

    def begin(self, line: int) -> None:
        self.line, self.bad, self._of_row = line, False, 0

    def report(
        self,
        code: str,
        found: object,
        path: str = "",
        severity: Literal["error", "warning"] = "error",
        accepted: str = "",
    ) -> None:
        if code == "extra_column":  # the same in every line of a file: said once
            if path in self._said:
                return
            self._said.add(path)
        self.bad = self.bad or severity == "error"
        self._of_row += 1
        if self._of_row > MOST_PER_ROW:
            return
        if self._of_row == MOST_PER_ROW:
            found = f"{shorten(found, 50)}; more problems of this row are not listed"
        self.findings.append(finding(code, self.file, self.line, found, path, severity, accepted))
