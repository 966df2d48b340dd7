"""A store and a tracker that are away for a minute in mid-training: real servers, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient
from test_training_recovery import _sigterm_as_before, run, said  # noqa: F401 - the first is a fixture
from test_training_recovery_platform import on_s3, until
from training_support import tiny_spec

from ftplatform.core.payload import Tracking
from ftplatform.training.job import train
from ftplatform.training.tracker import Trackers
from ftplatform.training.trackers.mlflow import PAYLOAD_TAG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
AWAY = 60.0
"""Seconds: what the outage is, and not how long a test waits for something."""


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """``work`` in a thread of its own, whose failure is the test's."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failed, failed


@pytest.mark.usefixtures("s3_credentials")
def test_a_store_that_is_away_for_a_minute_costs_time_and_no_bit(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full", steps=12, checkpoint_every=2)
    undisturbed = run(spec.model_copy(update={"key": "b" * 64}), tmp_path, 2)
    made = on_s3(tmp_path)
    try:
        with beside(lambda: made.outage(AWAY)):
            result = train(spec.model_copy(update={"store": made.address}), made.io, made.store)
        assert result.outcome == "done", result.message
        assert [int(name[-8:]) for name in made.store.list_docs(f"checkpoints/{spec.key}")] == [10, 12]
        assert made.store.has(result.artifacts["weights"])
        assert result.artifacts["weights"] == undisturbed.artifacts["weights"]
    finally:
        made.endpoint.stop()


class Server:
    """``mlflow server`` as ``ft up`` starts it, which can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self._folder = folder
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]),
            *(
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
                "--default-artifact-root",
                str(folder / "artifacts"),
            ),
        ]

    def start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        until(lambda: not self._answers())

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.uri}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def history(uri: str, key: str) -> tuple[str, list[int]]:
    """The run's status, and the steps whose loss it has, as the server tells them; nothing before there is a run."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("acme/support")
    runs = client.search_runs([experiment.experiment_id], f"tags.`{PAYLOAD_TAG}` = '{key}'") if experiment else []
    if not runs:
        return "", []
    (found,) = runs
    return found.info.status, [one.step for one in client.get_metric_history(found.info.run_id, "loss")]


def test_a_tracker_that_is_away_for_a_minute_holds_nothing_up_and_has_every_figure_once_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training waits for the outage at step 100 and for its end at step 390: how long steps take must not decide."""
    for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")):
        monkeypatch.setenv(name, value)  # as in a payload's environment
    server = Server(tmp_path)
    tracking = Tracking(uri=server.uri, experiment="acme/support", run_name="job-1")
    spec = tiny_spec(tmp_path, kind="full", steps=400, checkpoint_every=1000).model_copy(update={"tracking": tracking})
    gone, near_the_end, back = (threading.Event() for _ in range(3))
    log = Trackers.log

    def noticing(trackers: Trackers, step: int, figures: dict[str, float]) -> None:
        log(trackers, step, figures)
        if step == 100:
            assert gone.wait(120)
        if step == 390:
            near_the_end.set()
            assert back.wait(300)

    def outage() -> None:
        until(lambda: history(server.uri, spec.key)[1])
        server.kill()
        gone.set()
        assert near_the_end.wait(120), "the training waits for its tracker"
        time.sleep(AWAY)
        server.start()
        back.set()

    monkeypatch.setattr(Trackers, "log", noticing)
    server.start()
    try:
        with beside(outage):
            result = run(spec, tmp_path)
        assert (result.outcome, result.numbers["steps"]) == ("done", 400)
        assert "did not reach" not in result.message
        assert history(server.uri, spec.key) == ("FINISHED", list(range(1, 401)))
    finally:
        server.kill()
