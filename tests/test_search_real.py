"""A search by the command line with real trainings: killed in the middle, gone on with, its winner trained as a job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from platform_support import Bench, chat_rows
from serving_support import write_base
from test_line_assets import DATASET, _add_base

from ftplatform import assets
from ftplatform.core.ids import LineKey
from ftplatform.core.recipe import parse_recipe
from ftplatform.core.search_result import SearchResult, Trial
from ftplatform.resources.jobs import job_doc
from ftplatform.search.documents import newest_study

LINE = LineKey.parse(f"{DATASET}|tiny@1")
FT = str(Path(sys.executable).parent / "ft")
RECIPE = {
    "name": "tiny",
    "version": 1,
    "base": "tiny",
    "lora": {"rank": 4},
    "training": {"learning_rate": 0.003, "max_steps": 27, "batch_size": 2, "max_length": 256},
    "search": {
        "space": {
            "training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
            "lora.rank": {"choices": [4, 8]},
        },
        "trials": 4,
        # A random model answers nothing right, whatever it learns in a few steps.
        "objective": "eval_loss",
    },
}


def _trials(bench: Bench) -> list[Trial]:
    found = newest_study(bench.parts.store, LINE)
    return found[0].trials() if found else []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_survives_kill_9_and_its_winner_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPLATFORM_LEASE_SECONDS", "10")
    bench = Bench()
    key = _add_base(bench, write_base(tmp_path / "base"))
    assert bench.run([assets.base_model], key).success
    bench.parts.catalog.recipes.add(parse_recipe(RECIPE))
    assert bench.data_run(DATASET, {"rows.jsonl": chat_rows(120)}).success

    first = subprocess.Popen([FT, "search", DATASET, "tiny@1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(_trials(bench)) < 2:
        assert first.poll() is None, "the search ended before it could be killed"
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = _trials(bench)
    assert [trial.state for trial in before][-1] == "running"
    time.sleep(11)

    done = subprocess.run([FT, "search", DATASET, "tiny@1", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = SearchResult.model_validate_json(done.stdout)
    assert len(found.trials) == 4
    assert [trial.parameters for trial in found.trials[: len(before)]] == [trial.parameters for trial in before]
    assert found.trials[0].state == "complete"
    starts = (bench.parts.settings.home / "payloads" / "starts.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in starts}) == len(starts), "no trial was begun twice"
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert all(max(trial.seen) in (1, 2, 3, 4) for trial in pruned)
    shown = subprocess.run([FT, "search", "show", DATASET, "tiny@1"], capture_output=True, text=True, check=True)
    assert "--from-search" in shown.stdout

    subprocess.run([FT, "train", DATASET, "tiny@1", "--from-search"], check=True, capture_output=True)
    job = bench.jobs.all(LINE)[0]
    assert job["state"] in ("promoted", "quarantined")
    plan = bench.parts.store.get_doc(job_doc(job["job"], "training_plan"))["manifest"]
    assert plan["overrides"] == found.parameters
    adapter = bench.parts.store.get_doc(job_doc(job["job"], "adapter"))["manifest"]
    assert adapter["weights"] == found.trials[found.best].weights, "trained in full, to the same bytes as its trial"
