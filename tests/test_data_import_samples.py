"""The folder of good and bad samples: each file gives the rows and findings written down for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from import_support import load

SAMPLES = Path(__file__).parent / "samples"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((SAMPLES / "expected.yaml").read_text(encoding="utf-8"))


def test_every_sample_has_its_expectations() -> None:
    there = {f"{path.parent.name}/{path.name}" for path in SAMPLES.glob("*/*")}
    assert there == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_sample_gives_the_findings_written_down_for_it(tmp_path: Path, name: str) -> None:
    path = SAMPLES / name
    result = load(tmp_path, {path.name: path.read_bytes()})
    assert {
        "format": result.report.format,
        "accepted": result.report.accepted,
        "kinds": sorted({row.kind for row in result.rows}),
        "findings": [f"{f.line} {f.code}" + (f" {f.path}" if f.path else "") for f in result.findings],
    } == EXPECTED[name]
    assert result.report.refused == name.startswith("bad/")
