from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from ftplatform.core.payload import Tracking
from ftplatform.training import tracker as module
from ftplatform.training.tracker import PAYLOAD_TAG, Tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def tracking(uri: str) -> Tracking:
    return Tracking(uri=uri, experiment="acme/support", run_name="job-1", tags={"recipe": "tiny@1"})


def test_a_resumed_attempt_goes_on_in_the_same_run_and_writes_no_step_twice(uri: str) -> None:
    first = Tracker(tracking(uri), "k1")
    for step in range(1, 61):
        first.log(step, {"loss": 1 / step, "grad_norm": 1.0})
    assert first.close("RUNNING") is None
    second = Tracker(tracking(uri), "k1")
    for step in range(41, 81):
        second.log(step, {"loss": 1 / step, "grad_norm": 1.0})
    assert second.close("FINISHED") is None
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("acme/support")
    runs = client.search_runs([experiment.experiment_id], f"tags.`{PAYLOAD_TAG}` = 'k1'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.tags["recipe"] == "tiny@1"
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, 81))
    assert history[-1].value == 1 / 80


def test_figures_are_buffered_and_sent_by_fifty_steps(uri: str) -> None:
    tracker = Tracker(tracking(uri), "k2")
    tracker.log(1, {"loss": 1.0})
    assert len(tracker._waiting) == 1
    for step in range(2, 51):
        tracker.log(step, {"loss": 1.0})
    assert tracker._waiting == []


def test_a_tracker_that_is_away_is_told_and_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    (tmp_path / "file").write_text("")
    away = Tracker(tracking(f"sqlite:///{tmp_path}/file/mlflow.db"), "k3")
    for step in range(1, 121):
        away.log(step, {"loss": 1.0})
    said = away.close("FINISHED")
    assert said is not None
    assert said.startswith("120 steps of metrics did not reach the tracker")
    assert len(slept) >= 3


def test_figures_kept_while_the_tracker_was_away_arrive_later(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(tracking(uri), "k4")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "_connect", lambda self: (_ for _ in ()).throw(ConnectionError("refused")))
        for step in range(1, 61):
            tracker.log(step, {"loss": float(step)})
        assert tracker.error == "ConnectionError: refused"
    assert tracker.close("FINISHED") is None
    client = MlflowClient(uri)
    history = client.get_metric_history(tracker._run, "loss")
    assert [metric.step for metric in history] == list(range(1, 61))
