"""Pods that are taken away: the step goes on in another one, unless a person ended the run or the step itself failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from kubernetes_cluster import launch_from_ui, partition_tags
from test_kubernetes_placement import LINE, cluster, folder, workspace  # noqa: F401 - fixtures
from test_training_recovery_platform import JOB, Log, Scripted
from training_support import tiny_spec

from ftplatform.assets.lost import surviving_eviction
from ftplatform.assets.payloads import attempts_of, run_payload
from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import PayloadResult
from ftplatform.launchers import kubernetes
from ftplatform.launchers.base import Handle
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings


@pytest.fixture
def looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor looks after its pods in every round, and starts the next one at once."""
    monkeypatch.setattr(kubernetes, "LOST_WAIT", 0)
    made = StepDelegatingExecutor.__init__

    def eager(self: Any, *args: Any, **rest: Any) -> None:
        made(self, *args, **rest | {"check_step_health_interval_seconds": 0})

    monkeypatch.setattr(StepDelegatingExecutor, "__init__", eager)


def steps(workspace: Any, run: dg.DagsterRun, kind: dg.DagsterEventType) -> list[str]:  # noqa: F811
    return [record.step_key for record in workspace.instance.all_logs(run.run_id, of_type=kind)]


def test_a_step_whose_pod_is_lost_runs_in_another(workspace, cluster, looked_after):  # noqa: F811
    cluster.losing = {"adapter": 2}
    run = launch_from_ui(workspace, ["training_plan", "adapter", "eval_report"], partition_tags(f"{LINE}|tiny-lora@1"))
    assert cluster.execute(run).status is dg.DagsterRunStatus.SUCCESS
    assert steps(workspace, run, dg.DagsterEventType.STEP_UP_FOR_RETRY) == ["adapter", "adapter"]
    pods = [job for job in cluster.jobs if job["metadata"]["labels"].get("dagster/op") == "adapter"][-3:]
    assert len({job["metadata"]["name"] for job in pods}) == 3
    # The third is placed as the first was.
    assert pods[0]["spec"]["template"]["spec"]["nodeSelector"] == pods[2]["spec"]["template"]["spec"]["nodeSelector"]


def test_a_step_whose_pods_are_always_lost_ends(workspace, cluster, looked_after, monkeypatch):  # noqa: F811
    monkeypatch.setattr(kubernetes, "LOST_STEPS", 3)
    cluster.losing = {"adapter": 100}
    run = launch_from_ui(workspace, ["adapter"], partition_tags(f"{LINE}|tiny-lora@1"))
    done = cluster.execute(run)
    assert (done.status, 100 - cluster.losing.pop("adapter")) == (dg.DagsterRunStatus.FAILURE, 4)
    assert steps(workspace, run, dg.DagsterEventType.STEP_FAILURE) == ["adapter"]


def test_a_step_that_fails_by_itself_is_not_repeated(workspace, cluster, looked_after):  # noqa: F811
    run = launch_from_ui(workspace, ["adapter"], partition_tags(f"{LINE}|unplaced@1"))
    assert cluster.execute(run).status is dg.DagsterRunStatus.FAILURE
    assert steps(workspace, run, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []


@pytest.mark.parametrize(
    ("executor", "status", "again"),
    [("k8s", dg.DagsterRunStatus.STARTED, True), ("k8s", dg.DagsterRunStatus.CANCELING, False),
     ("local", dg.DagsterRunStatus.STARTED, False)],
)  # fmt: skip
def test_sigterm_to_a_pod_is_an_eviction_unless_a_person_ended_the_run(executor, status, again):
    run = SimpleNamespace(status=status, is_finished=False)
    context: Any = SimpleNamespace(log=Log(), run_id="r", instance=SimpleNamespace(get_run_by_id=lambda run_id: run))
    parts: Any = SimpleNamespace(settings=SimpleNamespace(executor=executor))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(dg.RetryRequested if again else KeyboardInterrupt), surviving_eviction(context, parts):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


class Lost(BaseException):
    """What a process that is killed does not even raise."""


class Losing(Scripted):
    """Its first attempts are lost together with whoever waits for them."""

    def __init__(self, place: Path, lost: int) -> None:
        done = PayloadResult(outcome="done", message="made it", numbers={"steps": 6.0, "useful_seconds": 1.0})
        super().__init__(place, *[done] * (lost + 1))
        self.lost, self.cancelled = lost, 0

    def wait(self, handle: Handle, on_progress: Any, should_cancel: Any, **rest: Any) -> PayloadResult:
        if handle.attempt <= self.lost:
            raise Lost
        return super().wait(handle, on_progress, should_cancel)

    def cancel(self, handle: Handle, grace: float = 60.0) -> None:
        self.cancelled += 1


def run_through(place: Path, launcher: Losing, committed: bool) -> tuple[PayloadResult | PayloadFailed, Parts, Any]:
    """One process after another, as pods are, until one is told how the payload ended."""
    spec, parts = tiny_spec(place), Parts(load_settings())
    parts.__dict__["launcher"] = launcher
    for number in range(10):
        try:
            context: Any = SimpleNamespace(log=Log())
            return run_payload(context, parts, spec, stage="training", job=JOB), parts, spec
        except Lost:
            if committed:
                parts.store.put_doc(f"checkpoints/{spec.key}/step-{number + 1:08}", {"step": number + 1})
        except PayloadFailed as failed:
            return failed, parts, spec
    raise AssertionError("nobody was told")


def test_attempts_lost_with_their_step_are_on_record_and_those_that_got_further_are_endless(tmp_path: Path) -> None:
    ended, parts, spec = run_through(tmp_path, Losing(tmp_path, 5), committed=True)
    assert isinstance(ended, PayloadResult)
    rows = attempts_of(parts, JOB, spec.key)
    assert [row["outcome"] for row in rows] == ["failed"] * 5 + ["done"]
    assert "lost together with the step" in rows[0]["message"]
    assert ended.numbers["attempts"] == 6
    assert parts.store.list_docs("attempts") == []


def test_attempts_lost_again_and_again_without_a_checkpoint_end_it(tmp_path: Path) -> None:
    launcher = Losing(tmp_path, 5)
    ended, parts, spec = run_through(tmp_path, launcher, committed=False)
    assert isinstance(ended, PayloadFailed)
    assert "lost 3 times in a row" in str(ended)
    assert (launcher.cancelled, len(attempts_of(parts, JOB, spec.key))) == (1, 3)
    # A person who runs it again gets a fresh count.
    assert parts.store.list_docs("attempts") == []
