"""What a step says about its own result; the Dagster shell turns it into an asset check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check. A failed one of severity ``error`` stops the version; a ``warning`` is shown and stops nothing."""

    name: str
    passed: bool
    message: str
    """A sentence for the customer: what was counted, against which limit."""
    severity: Literal["error", "warning"] = "error"
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The worst rows, a flat dict each, for a table."""

    @property
    def blocks(self) -> bool:
        return not self.passed and self.severity == "error"


def blocking(checks: list[CheckResult]) -> list[CheckResult]:
    """The checks that stop a version."""
    return [check for check in checks if check.blocks]
