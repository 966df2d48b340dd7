"""Whole searches through the real asset, with a launcher that trains by formula: pruned, capped, killed, resumed, cancelled."""

from __future__ import annotations

import contextlib
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from platform_support import Bench, chat_rows
from search_support import FormulaLauncher, Killed
from serving_support import write_base
from test_line_assets import DATASET, _add_base

from ftplatform import assets
from ftplatform.core.ids import LineKey
from ftplatform.core.recipe import LoraConfig, Recipe, parse_recipe
from ftplatform.core.search_result import SearchResult, Trial
from ftplatform.resources.jobs import JOB_TAG, OVERRIDES, job_doc, latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.search.documents import newest_study

LINE = LineKey.parse(f"{DATASET}|tiny@1")
SPACE = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "lora.rank": {"choices": [4, 8, 16]},
}


OTHER = LoraConfig(rank=4, dropout=0.1)
"""Another training to the cache, the same one to the formula."""


def _recipe(version: int = 1, **search: Any) -> Recipe:
    training = {"learning_rate": 0.03, "max_steps": 18, "batch_size": 2, "max_length": 256}
    value = {"name": "tiny", "version": version, "base": "tiny", "lora": {"rank": 4}, "training": training}
    return parse_recipe(value | {"search": {"space": SPACE, "trials": 8, **search}})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    key = _add_base(bench, write_base(tmp_path / "base"))
    assert bench.run([assets.base_model], key).success
    assert bench.data_run(DATASET, {"rows.jsonl": chat_rows(200)}).success
    launcher = FormulaLauncher(tmp_path / "payloads", bench.parts.store)
    found = cached_property(lambda parts: launcher)
    found.__set_name__(Parts, "launcher")
    monkeypatch.setattr(Parts, "launcher", found)
    return bench


@pytest.fixture
def launcher(bench: Bench) -> FormulaLauncher:
    found = bench.parts.launcher
    assert isinstance(found, FormulaLauncher)
    return found


def _search(
    bench: Bench, version: int = 1, tags: dict[str, str] | None = None, trials: int | None = None
) -> dg.ExecuteInProcessResult:
    config = {"ops": {"search": {"config": {"trials": trials}}}} if trials else None
    return bench.run(assets.SEARCH, f"{DATASET}|tiny@{version}", tags, config)


def _result(bench: Bench, version: int = 1, trials: int | None = None) -> SearchResult:
    result = _search(bench, version, trials=trials)
    assert result.success, bench.failure(result)
    found = result.output_for_node("search")
    assert isinstance(found, SearchResult)
    return found


def _trials(bench: Bench) -> list[Trial]:
    found = newest_study(bench.parts.store, LINE)
    return found[0].trials() if found else []


def _what(trials: Any) -> list[tuple[Any, ...]]:
    return [(t.number, t.parameters, t.state, t.score, t.seen, t.rungs) for t in trials]


def test_a_search_finds_better_values_and_a_job_trains_with_them(bench: Bench, launcher: FormulaLauncher) -> None:
    bench.parts.catalog.recipes.add(_recipe())
    found = _result(bench)
    states = [trial.state for trial in found.trials]
    assert len(found.trials) == 8
    assert found.objective == "heldout"
    assert {"complete", "pruned"} == set(states)
    assert found.trials[0].parameters == {"training.learning_rate": 0.03, "lora.rank": 4}
    assert found.score > (found.trials[0].score or 0)
    assert bench.check("search", "better_than_recipe", str(LINE)) == "SUCCEEDED"
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert len(launcher.cancelled) == len(pruned), "the payload of a stopped trial is cancelled"
    assert all(0 < max(trial.seen) <= 3 and trial.score is None for trial in pruned)
    assert len(set(launcher.started)) == len(launcher.started) == 8
    jobs = bench.jobs.all(LINE)
    assert [job["state"] for job in jobs] == ["searched"]
    stages = {row["stage"] for row in bench.jobs.attempts(jobs[0]["job"])}
    assert {"trial 0", "trial 0 score"} <= stages
    assert bench.parts.catalog.leases.free(f"line:{LINE}")

    again = _result(bench)
    assert again == found, "every trial is known: nothing is trained, nothing is drawn"
    assert len(launcher.started) == 8

    # The winner as a job of the line: its values are run configuration, recorded in the plan, and no new recipe.
    job = bench.jobs.submit(LINE, "submitted", state="running")
    bench.parts.store.put_doc(job_doc(job, OVERRIDES), found.parameters)
    result = bench.run([assets.training_plan], str(LINE), {JOB_TAG: job})
    assert result.success, bench.failure(result)
    plan = result.output_for_node("training_plan")
    assert plan.overrides == found.parameters
    assert plan.training.learning_rate == found.parameters["training.learning_rate"]
    assert plan.lora.rank == found.parameters["lora.rank"]
    assert plan.recipe_digest == _recipe().content_digest


def test_a_killed_search_goes_on_as_if_it_had_not_been(bench: Bench, launcher: FormulaLauncher) -> None:
    """Killed in the middle of a trial, twice: the same trials come out, and none is begun twice."""
    bench.parts.catalog.recipes.add(_recipe(1, trials=6))
    bench.parts.catalog.recipes.add(_recipe(2, trials=6).model_copy(update={"lora": OTHER}))
    undisturbed = _result(bench, 2)
    launcher.started.clear()
    kills = [4, 6]

    def kill(spec: Any, step: int) -> None:
        if kills and len(launcher.started) >= 3 and step == kills[0]:
            kills.pop(0)
            raise Killed

    launcher.at = kill
    for left in (1, 0):
        with contextlib.suppress(Killed):
            assert not _search(bench).success
        assert len(kills) == left
        assert [trial.state for trial in _trials(bench)][-1] == "running"
    found = _result(bench)
    assert _what(found.trials) == _what(undisturbed.trials)
    assert len(launcher.started) == len(set(launcher.started)) == 6


@pytest.mark.slow
def test_a_cap_ends_the_search_before_a_trial_that_may_break_it(bench: Bench, launcher: FormulaLauncher) -> None:
    bench.parts.catalog.recipes.add(_recipe(1, max_hours=1e-9))
    message = bench.failure(_search(bench))
    assert "max_hours is 1e-09 hours" in message
    assert launcher.started == []

    bench.parts.catalog.recipes.add(_recipe(2, max_hours=3.0))
    short = _result(bench, 2, trials=2)
    found = newest_study(bench.parts.store, LineKey.parse(f"{DATASET}|tiny@2"))
    assert found is not None
    # As if the first of the two had taken all the time there is.
    found[0].save(short.trials[0].model_copy(update={"hours": 3.0}))
    capped = _result(bench, 2)
    assert len(capped.trials) == 2
    assert "max_hours is 3 hours: 3" in capped.stopped


@pytest.mark.slow
def test_trials_run_side_by_side_as_far_as_there_are_slots(
    bench: Bench, launcher: FormulaLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.parts.catalog.recipes.add(_recipe(1, parallel=8, trials=4))
    assert len(_result(bench).trials) == 4
    assert launcher.most == 1, "one training slot"
    monkeypatch.setenv("FTPLATFORM_TRAINING_SLOTS", "3")
    bench.parts.catalog.recipes.add(_recipe(2, parallel=8, trials=6).model_copy(update={"lora": OTHER}))
    together, met = threading.Barrier(3), set()

    def meet(spec: Any, step: int) -> None:
        if len(met) < 3 and spec.key not in met:
            met.add(spec.key)
            together.wait(60)

    launcher.at = meet
    found = _result(Bench(), 2)
    assert [trial.number for trial in found.trials] == list(range(6))
    assert len({str(trial.parameters) for trial in found.trials}) == 6, "those under way are kept away from"
    assert launcher.most == 3


@pytest.mark.slow
def test_a_trial_that_diverges_or_is_refused_is_kept_away_from(bench: Bench, launcher: FormulaLauncher) -> None:
    launcher.outcome = lambda spec: "diverged" if spec.training.learning_rate > 0.02 else "done"
    space = {**SPACE, "training.max_length": {"choices": [256, 512]}}
    bench.parts.catalog.recipes.add(_recipe(1, space=space, pruner="none"))
    found = _result(bench)
    for trial in found.trials:
        too_hot = trial.parameters["training.learning_rate"] > 0.02
        too_long = trial.parameters["training.max_length"] > 256
        assert (trial.state == "pruned") == (too_hot or too_long)
        if too_long:
            assert trial.why.startswith("refused by its plan")
            assert "512" in trial.why
        elif too_hot:
            assert "diverged" in trial.why
    assert found.trials[0].state == "pruned", "the recipe's own learning rate is too hot"


@pytest.mark.slow
def test_trials_that_fail_in_a_row_end_the_search(bench: Bench, launcher: FormulaLauncher) -> None:
    launcher.outcome = lambda spec: "bad_data"
    bench.parts.catalog.recipes.add(_recipe(1))
    message = bench.failure(_search(bench))
    assert "3 trials in a row failed" in message
    assert "it bad_data" in message
    begun = len(launcher.started)
    assert [trial.state for trial in _trials(bench)].count("failed") == 3
    # The reason is gone: what failed is tried again, and counts as any other trial.
    launcher.outcome = lambda spec: "done"
    found = _result(bench)
    assert begun < len(launcher.started) == 8
    assert "failed" not in [trial.state for trial in found.trials]


@pytest.mark.slow
def test_a_cancelled_search_keeps_its_trials(bench: Bench, launcher: FormulaLauncher) -> None:
    bench.parts.catalog.recipes.add(_recipe(1))
    job = bench.jobs.submit(LINE, "search", state="running")
    launcher.at = lambda spec, step: bench.jobs.cancel(job) if len(launcher.started) == 3 else None
    result = _search(bench, tags={JOB_TAG: job})
    assert not result.success
    assert bench.jobs.get(job)["state"] == "cancelled"
    assert [trial.state for trial in _trials(bench)] == [
        "complete",
        *[t.state for t in _trials(bench)[1:-1]],
        "running",
    ]
    launcher.at = lambda spec, step: None
    assert len(_result(bench).trials) == 8


def test_what_cannot_be_searched_is_said_before_anything_is_trained(bench: Bench, launcher: FormulaLauncher) -> None:
    plain = _recipe(1).model_copy(update={"search": None})
    bench.parts.catalog.recipes.add(plain)
    assert "has no `search`" in bench.failure(_search(bench))
    bench.parts.catalog.recipes.add(_recipe(2, space={"lora.rnk": {"choices": [1, 2]}}))
    assert "lora.rnk: unknown field" in bench.failure(_search(bench, 2))
    assert launcher.started == []
    assert bench.parts.store.find_doc(latest_doc("search", str(LINE))) is None
