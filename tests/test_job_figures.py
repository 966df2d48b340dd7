"""What a job took, in figures and in words; what stands in a terminal meanwhile."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ftplatform.cli.progress import Watching, bar, newest_progress, progress_of
from ftplatform.core.job_figures import JobFigures, job_figures

NUMBERS = {
    "steps": 100.0,
    "tokens": 51_200.0,
    "supervised_tokens": 20_000.0,
    "peak_memory_bytes": 2e9,
    "useful_seconds": 600.0,
}


def attempt(began: float, ended: float, peak: float) -> dict[str, Any]:
    return {"started_at": began, "finished_at": ended, "numbers": {"peak_memory_bytes": peak}}


def taken(*attempts: dict[str, Any]) -> JobFigures:
    return job_figures(attempts, NUMBERS, gpu="l4", gpus=2, rate=1.6, currency="USD")


def test_money_and_goodput_are_of_all_attempts() -> None:
    found = taken(attempt(0, 500, 3e9), attempt(900, 1200, 2e9))
    assert (found.wall_seconds, found.peak_memory_gb, found.attempts) == (800, 3.0, 2)
    assert found.goodput == 0.75
    assert found.gpu_hours == pytest.approx(800 / 3600 * 2)
    assert found.price == pytest.approx(800 / 3600 * 1.6)
    words = found.words()
    assert words["time"] == "13 min in 2 attempts"
    assert words["goodput"].startswith("75% of it in steps that count; 3 min in start-up")
    assert words["GPU-hours"] == "0.4444 (2 x l4)"
    assert words["tokens"] == "51,200, 20,000 of them supervised"
    assert "model FLOPs utilisation" not in words


def test_a_job_that_trained_nothing_costs_nothing() -> None:
    found = taken()
    assert (found.price, found.goodput) == (0.0, None)
    assert found.words() == {"trained": "nothing: the weights were there already"}


def payload(root: Path, name: str, job: str, *lines: dict[str, Any]) -> Path:
    folder = root / name / "0001"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"tracking": {"tags": {"ft.job": job}}}))
    text = "".join(json.dumps({"time": time.time(), **line}) + "\n" for line in lines)
    (folder / "progress.jsonl").write_text(text)
    return folder


LINE = {"message": "step 40 of 120: loss 1.2346, about 4 min left", "step": 40, "of": 120, "loss": 1.2346,
        "tokens_per_second": 5120.4, "mfu": 0.314, "eta_seconds": 230.0}  # fmt: skip


def shown(line: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(bar(line))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_step_is_a_bar_with_its_figures_and_the_time_left() -> None:
    text = shown({**LINE, "kind": "train", "time": time.time()})
    assert all(
        part in text for part in ("train", "40/120", "loss 1.2346", "5,120 tokens/s", "MFU 31 %", "4 min left", "━")
    )
    assert "2 min left" in shown({**LINE, "kind": "train", "time": time.time() - 110})
    assert shown({"kind": "train", "message": "saving the weights"}).strip() == "train: saving the weights"


def test_the_newest_payload_is_shown_and_a_job_finds_its_own(tmp_path: Path) -> None:
    assert newest_progress(tmp_path) is None
    payload(tmp_path, "train-aaaa", "job-1", LINE)
    assert progress_of(tmp_path, "job-1") == LINE["message"]
    assert progress_of(tmp_path, "job-2") is None
    began = time.time() + 1
    assert newest_progress(tmp_path, since=began) is None
    ended = payload(tmp_path, "evaluate-bbbb", "", {"message": "loading"})
    found = newest_progress(tmp_path)
    assert found is not None
    assert (found["kind"], found["message"]) == ("evaluate", "loading")
    (ended / "result.json").write_text("{}")
    assert newest_progress(tmp_path) == {**LINE, "kind": "train", "time": pytest.approx(time.time(), abs=60)}
    (tmp_path / "train-aaaa" / "0001" / "result.json").write_text("{}")
    assert progress_of(tmp_path, "job-1") is None


def test_without_a_terminal_nothing_is_drawn_and_with_one_the_bar_goes_away_at_the_end(tmp_path: Path) -> None:
    plain = Console(file=io.StringIO(), width=100)
    with Watching(plain, tmp_path):
        payload(tmp_path, "train-aaaa", "job-1", LINE)
    assert isinstance(plain.file, io.StringIO)
    assert plain.file.getvalue() == ""
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Watching(terminal, tmp_path):
        payload(tmp_path, "train-cccc", "job-1", {**LINE, "step": 41})
        deadline = time.monotonic() + 20
        while "41/120" not in terminal.file.getvalue():  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            time.sleep(0.05)
