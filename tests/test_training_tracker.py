"""Figures reach MLflow once each, whatever happens in between; no tracker stops or slows a training."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import Tracking
from ftplatform.core.trackers import TrackerAddress
from ftplatform.training import tracker as module
from ftplatform.training.tracker import Tracker, Trackers, open_trackers
from ftplatform.training.trackers import StepFigures, mlflow
from ftplatform.training.trackers.mlflow import PAYLOAD_TAG, Mlflow


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACK_OFF", (0.01, 0.05))
    monkeypatch.setattr(module, "_LAST_PAUSE", 0.02)


def tracking(uri: str, *others: TrackerAddress) -> Tracking:
    return Tracking(uri=uri, experiment="acme/support", run_name="job-1", tags={"recipe": "tiny@1"}, others=others)


class Memory:
    """A tracker that keeps what it is given, and fails as often as it is told to."""

    where = "a fake"

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.steps, self.ended = failures, [], ""  # type: ignore[var-annotated]

    def open(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("refused\nand a long story")

    def send(self, steps: Sequence[StepFigures]) -> None:
        self.steps += [one.step for one in steps]

    def end(self, status: str) -> None:
        self.ended = status


def wait_for(what: Sequence[object], length: int) -> None:
    deadline = time.monotonic() + 30
    while len(what) < length:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def history(uri: str, key: str) -> list[tuple[int, float]]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("acme/support")
    [run] = client.search_runs([experiment.experiment_id], f"tags.`{PAYLOAD_TAG}` = '{key}'")
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")]


def test_a_resumed_attempt_goes_on_in_the_same_run_and_writes_no_step_twice(uri: str) -> None:
    first = open_trackers(tracking(uri), "k1")
    for step in range(1, 61):
        first.log(step, {"loss": 1 / step, "grad_norm": 1.0})
    assert first.close("RUNNING") is None
    second = open_trackers(tracking(uri), "k1")
    for step in range(41, 81):
        second.log(step, {"loss": 1 / step, "grad_norm": 1.0})
    assert second.close("FINISHED") is None
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("acme/support")
    runs = client.search_runs([experiment.experiment_id], f"tags.`{PAYLOAD_TAG}` = 'k1'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.tags["recipe"] == "tiny@1"
    assert history(uri, "k1") == [(step, 1 / step) for step in range(1, 81)]


def test_a_batch_that_broke_off_is_sent_on_and_not_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow takes a thousand metrics a call: a connection that breaks between two calls must not double the first."""
    monkeypatch.setattr(mlflow, "_PER_CALL", 4)
    backend = Mlflow(tracking(uri), "k2")
    backend.open()
    sent = backend._client.log_batch
    calls = []

    def log_batch(run: str, metrics: list[object]) -> None:
        calls.append(len(metrics))
        if len(calls) == 2:
            raise ConnectionError("reset")
        sent(run, metrics=metrics)

    monkeypatch.setattr(backend._client, "log_batch", log_batch)
    steps = [StepFigures(step, 1e9 + step, {"loss": float(step), "lr": 0.1}) for step in range(1, 7)]
    with pytest.raises(ConnectionError):
        backend.send(steps)
    backend.send(steps)
    assert calls == [4, 4, 4, 4]
    assert [step for step, _ in history(uri, "k2")] == list(range(1, 7))


def test_figures_are_sent_by_fifty_steps_and_not_one_by_one() -> None:
    backend = Memory()
    tracker = Tracker(backend)
    for step in range(1, 50):
        tracker.log(step, {"loss": 1.0})
    assert backend.steps == []
    tracker.log(50, {"loss": 1.0})
    wait_for(backend.steps, 50)


def test_figures_kept_while_the_tracker_was_away_arrive_later_in_order() -> None:
    backend = Memory(failures=2)
    tracker = Tracker(backend)
    for step in range(1, 131):
        tracker.log(step, {"loss": 1.0})
    assert Trackers([]).close("FINISHED") is None
    tracker.begin_close("FINISHED")
    assert tracker.end_close(time.monotonic() + 30) is None
    assert (backend.steps, backend.ended) == (list(range(1, 131)), "FINISHED")


def test_a_tracker_that_stays_away_is_told_and_takes_nothing_from_the_others() -> None:
    away, here = Memory(failures=10**6), Memory()
    both = Trackers.__new__(Trackers)
    both._trackers = [Tracker(away), Tracker(here)]
    for step in range(1, 121):
        both.log(step, {"loss": 1.0})
    assert both.close("FINISHED") == "120 steps of metrics did not reach a fake: ConnectionError: refused"
    assert (len(here.steps), here.ended) == (120, "FINISHED")


def test_a_tracker_that_hangs_costs_the_training_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    released = threading.Event()

    class Hanging(Memory):
        def send(self, steps: Sequence[StepFigures]) -> None:
            released.wait(60)

    trackers = Trackers([Hanging()])
    for step in range(1, 121):
        trackers.log(step, {"loss": 1.0})
    said = trackers.close("FINISHED")
    released.set()
    assert said == "120 steps of metrics did not reach a fake: no answer within 0 s"


def test_a_tracker_whose_package_is_missing_is_refused_at_once_by_the_name_for_pip(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(InvalidConfig, match="pip install wandb"):
        open_trackers(tracking(uri, TrackerAddress(kind="wandb", target="/tmp/x")), "k5")


def test_figures_of_a_tracker_without_a_server_are_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    away = open_trackers(tracking(f"sqlite:///{tmp_path}/file/mlflow.db"), "k3")
    away.log(1, {"loss": 1.0})
    said = away.close("FINISHED")
    assert said is not None
    assert said.startswith("1 steps of metrics did not reach MLflow at sqlite:")
