"""The demo as a person runs it, on other data than its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftplatform.cli.demo import SUMMARY, empty_home
from ftplatform.core.errors import Conflict
from ftplatform.settings import load_settings

FT = str(Path(sys.executable).parent / "ft")


def _demo(home: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [FT, "demo", *options], env={**os.environ, "FTPLATFORM_HOME": str(home)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary: dict[str, Any] = json.loads((home / SUMMARY).read_text())
    return summary


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_other_data_gives_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the summary is written down beforehand; the recipe that is promoted and the damaged one differ in one number."""
    monkeypatch.delenv("DAGSTER_HOME")
    own, other = _demo(tmp_path / "own"), _demo(tmp_path / "other", "--rows", "700", "--seed", "11")
    for summary in (own, other):
        for claim in ("promoted", "refused", "quarantined", "champion_still_answers", "unchanged_recognised"):
            assert summary[claim], claim
        assert summary["tuned_score"] > summary["base_score"] + 0.3
        assert summary["answer_before"] != summary["answer_after"]
    # The demo's eight copies go, and what else is too alike among rows made from templates.
    assert 0.95 * 1100 < own["rows"] <= 1100 - 8
    assert 0.95 * 700 < other["rows"] <= 700 - 8
    assert own["tuned_score"] != other["tuned_score"]
    assert own["answered_by"] != other["answered_by"]


def test_the_demo_does_not_delete_somebody_elses_home(tmp_path: Path) -> None:
    home = load_settings().home
    (home / "work").write_text("mine")
    with pytest.raises(Conflict, match="no demo made"):
        empty_home(load_settings())
    assert (home / "work").read_text() == "mine"


def test_the_shipped_demo_recipes_differ_in_the_learning_rate_alone() -> None:
    from ftplatform.recipes import read_recipe, shipped

    good, hot = (read_recipe(shipped()[name]).model_dump() for name in ("tiny-lora", "tiny-lora-too-hot"))
    assert hot["training"]["learning_rate"] == 10 * good["training"]["learning_rate"]
    for recipe in (good, hot):
        recipe["training"].pop("learning_rate")
        recipe.pop("name")
        recipe.pop("description")
    assert good == hot
