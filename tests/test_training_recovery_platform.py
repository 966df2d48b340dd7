"""What the platform does around a training that fails: attempts, records, diagnoses. Real payloads, real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from platform_support import Bench
from sqlalchemy.exc import OperationalError
from test_line_assets import DATASET, bench  # noqa: F401 - a fixture
from test_line_assets import _recipe as tiny_recipe
from test_training_recovery import losses, said, wide_spec
from training_support import store_in, tiny_spec

from ftplatform.assets import LINE
from ftplatform.assets.payloads import Diverged, attempts_of, run_payload
from ftplatform.catalog.jobs import Jobs
from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import PayloadResult, PayloadSpec, StoreAddress, TrainSpec
from ftplatform.launchers import Handle, LocalLauncher, Running
from ftplatform.launchers.environment import MARK
from ftplatform.launchers.hang import RankSign, diagnose
from ftplatform.launchers.memory_events import oom_kills
from ftplatform.launchers.processes import environment, marked, send
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings
from ftplatform.store import ObjectStore, open_store
from ftplatform.store.patience import is_away, patiently
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.job import train

JOB = "job-1"


class Log:
    """What Dagster's log would hold."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.info = self.warning = self.error = self.lines.append

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class Scripted:
    """A launcher whose attempts end as told, without starting anything."""

    def __init__(self, folder: Path, *results: PayloadResult) -> None:
        self.folder, self.results, self.specs = folder, list(results), []

    def submit(self, spec: PayloadSpec) -> Handle:
        self.specs.append(spec)
        return Handle(spec.kind, spec.key, len(self.specs), self.folder)

    def wait(self, handle: Handle, on_progress: Any, should_cancel: Any, **rest: Any) -> PayloadResult:
        return self.results[handle.attempt - 1]


def drive(spec: TrainSpec, launcher: Any) -> tuple[PayloadResult | PayloadFailed, Log, Parts]:
    parts, log = Parts(load_settings()), Log()
    parts.__dict__["launcher"] = launcher
    try:
        ended: Any = run_payload(SimpleNamespace(log=log), parts, spec, stage="training", job=JOB)  # type: ignore[arg-type]
    except PayloadFailed as failed:
        ended = failed
    return ended, log, parts


def out_of_memory(**numbers: float) -> PayloadResult:
    return PayloadResult(outcome="out_of_memory", message="no room", numbers=numbers)


def test_a_lack_of_memory_is_a_new_attempt_with_the_difference_on_record(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    done = PayloadResult(outcome="done", message="6 steps", numbers={"steps": 6, "useful_seconds": 2.0}, resumed_from=2)
    launcher = Scripted(tmp_path, out_of_memory(steps=3.0), done)
    result, log, parts = drive(spec, launcher)
    assert isinstance(result, PayloadResult)
    assert [(one.micro_batch, one.accumulation, one.key) for one in launcher.specs] == [
        (2, 2, spec.key),
        (1, 4, spec.key),
    ]
    assert (result.numbers["attempts"], result.numbers["lost_steps"], result.numbers["useful_seconds"]) == (2, 1, 2)
    assert result.numbers["seconds_in_all"] >= 0
    rows = attempts_of(parts, JOB, spec.key)
    assert [row["outcome"] for row in rows] == ["out_of_memory", "done"]
    assert "micro_batch 2 -> 1, accumulation 2 -> 4; the effective batch stays" in rows[0]["message"]
    assert "micro_batch 2 -> 1" in log


def test_at_the_end_of_the_ladder_a_person_is_told_what_would_help(tmp_path: Path) -> None:
    launcher = Scripted(tmp_path, *[out_of_memory()] * 5)
    failed, _, _ = drive(tiny_spec(tmp_path), launcher)
    assert isinstance(failed, PayloadFailed)
    assert not failed.retry_helps
    assert "choose a larger GPU" in str(failed)
    assert [one.gradient_checkpointing for one in launcher.specs] == [False, False, True]


def test_preemptions_that_bring_the_training_further_are_endless_and_fruitless_ones_are_not(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    preempted = PayloadResult(outcome="preempted", message="taken away")
    failed, _, _ = drive(spec, Scripted(tmp_path, *[preempted] * 9))
    assert isinstance(failed, PayloadFailed)
    parts = Parts(load_settings())
    assert len(attempts_of(parts, JOB, spec.key)) == 3

    class Committing(Scripted):
        def wait(self, handle: Handle, on_progress: Any, should_cancel: Any, **rest: Any) -> PayloadResult:
            name = f"checkpoints/{'d' * 64}/step-{handle.attempt:08d}"
            parts.store.put_doc(name, {"tree": "", "step": handle.attempt, "attempt": handle.attempt})
            return super().wait(handle, on_progress, should_cancel)

    moving = Committing(tmp_path, *[preempted] * 9, PayloadResult(outcome="done", message="made it"))
    result, _, _ = drive(spec.model_copy(update={"key": "d" * 64}), moving)
    assert isinstance(result, PayloadResult)
    assert result.numbers["attempts"] == 10


def test_a_catalog_that_is_away_is_said_and_the_payload_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(Scripted):
        def wait(self, handle: Handle, on_progress: Any, should_cancel: Any, **rest: Any) -> PayloadResult:
            assert not should_cancel()
            return super().wait(handle, on_progress, should_cancel)

    def away(jobs: Jobs, job: str) -> bool:
        raise OperationalError("select", {}, ConnectionRefusedError("nobody there"))

    monkeypatch.setattr(Jobs, "wants_cancel", away)
    done = PayloadResult(outcome="done", message="6 steps")
    result, log, parts = drive(tiny_spec(tmp_path), Asking(tmp_path, done))
    assert isinstance(result, PayloadResult)
    assert "the catalog is away for the moment (nobody there); the payload goes on" in log
    assert [row["outcome"] for row in attempts_of(parts, JOB, "a" * 64)] == ["done"]


def test_a_divergence_is_an_error_in_the_log_and_carries_its_figures(tmp_path: Path) -> None:
    diverged = PayloadResult(outcome="diverged", message="loss became nan at step 7", artifacts={"metrics": "m"})
    failed, log, parts = drive(tiny_spec(tmp_path), Scripted(tmp_path, diverged))
    assert isinstance(failed, Diverged)
    assert failed.result == diverged
    assert "loss became nan at step 7" in log
    assert [row["outcome"] for row in attempts_of(parts, JOB, "a" * 64)] == ["diverged"]


def test_the_diagnosis_of_a_hang_names_the_rank_and_where_it_stands(tmp_path: Path) -> None:
    head = "Current thread 0x1 (most recent call first):\n"
    waiting = '  File "/x/torch/distributed/distributed_c10d.py", line 5 in all_reduce\n  File "/x/ftplatform/training/votes.py", line 9 in highest\n'
    (tmp_path / "stacks-rank0.txt").write_text(
        f'Thread 0x2 (most recent call first):\n  File "/x/t.py", line 1 in run\n\n{head}{waiting}'
    )
    (tmp_path / "stacks-rank1.txt").write_text(
        f'{head}  File "/x/torch/nn/linear.py", line 7 in forward\n  File "/x/ftplatform/training/trainer.py", line 3 in compute_loss\n'
    )
    (tmp_path / "stacks-rank2.txt").write_text(head + waiting)

    def signs(*letters: str) -> list[RankSign]:
        return [RankSign(rank, 100 + rank, letter, 60.0 + (rank == 2)) for rank, letter in enumerate(letters)]

    told = diagnose(tmp_path, signs("S", "S", "S"))
    assert told.startswith(
        "held up by rank 1 (process 101, silent for 60 s, at linear.py:7 in forward, called from trainer.py:3"
    )
    assert (
        "rank 0 (process 100, silent for 60 s, at distributed_c10d.py:5 in all_reduce, called from votes.py:9" in told
    )
    assert "held up by rank 2 (process 102, stopped, " in diagnose(tmp_path, signs("S", "S", "T"))
    assert "without a stack" in diagnose(tmp_path / "none", signs("S"))


def test_kills_for_memory_are_read_from_either_version_of_control_groups(tmp_path: Path) -> None:
    membership, groups = tmp_path / "cgroup", tmp_path / "fs"
    membership.write_text("0::/pod/one\n")
    assert oom_kills(groups, membership) is None
    (groups / "pod" / "one").mkdir(parents=True)
    (groups / "pod" / "one" / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(groups, membership) == 2
    membership.write_text("5:cpu,cpuacct:/a\n4:memory:/not/visible\n")
    (groups / "memory").mkdir()
    (groups / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    assert oom_kills(groups, membership) == 7


def test_a_payload_that_the_kernel_killed_for_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = iter([4, 5])
    monkeypatch.setattr("ftplatform.launchers.local.oom_kills", lambda: next(counted))
    local = LocalLauncher(tmp_path / "payloads", command=lambda spec, path: ["/bin/sh", "-c", "kill -9 $$"])
    handle = local.submit(tiny_spec(tmp_path))
    result = local.wait(handle, lambda line: None, lambda: False, poll=0.05)
    assert result.outcome == "out_of_memory"
    assert "killed 1 of" in result.message


def test_a_pod_that_ended_for_memory_says_so() -> None:
    from ftplatform.launchers.kubernetes import _causes

    def pod(reason: str | None, code: int) -> Any:
        ended = SimpleNamespace(reason=reason, exit_code=code)
        container = SimpleNamespace(state=SimpleNamespace(terminated=ended), last_state=None)
        status = SimpleNamespace(container_statuses=[container], reason=None, message=None)
        return SimpleNamespace(metadata=SimpleNamespace(name="step-1"), status=status)

    assert _causes([pod("Error", 1)]) == []
    killed = _causes([pod("OOMKilled", 137)])
    assert killed[0] == "Pod step-1 ended with OOMKilled (exit code 137)."
    assert "resumes from the newest committed checkpoint" in killed[1]


def test_only_what_is_away_is_waited_for_and_not_for_ever() -> None:
    heard: list[str] = []
    tries = iter([ConnectionRefusedError("nobody there"), TimeoutError("late")])

    def call() -> str:
        for error in tries:
            raise error
        return "made it"

    assert patiently(call, heard.append) == "made it"
    assert len(heard) == 2
    assert "the store is away, trying again for 900 s (ConnectionRefusedError: nobody there)" in heard[0]

    def never() -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        patiently(never, heard.append, seconds=0.3)
    assert not is_away(PermissionError("no"))
    assert not is_away(OSError(28, "the disk is full"))


class Endpoint:
    """An S3 server of the test's own, that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        (folder / "ft").mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert rclone
        keys = f"{os.environ['AWS_ACCESS_KEY_ID']},{os.environ['AWS_SECRET_ACCESS_KEY']}"
        self._command = [rclone, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{self.port}", "--auth-key", keys]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: socket.socket().connect_ex(("127.0.0.1", self.port)) == 0)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass
class OnS3:
    """Attempt 1 of a training of ``tiny_spec`` with base and shards on an S3 endpoint that can be stopped."""

    endpoint: Endpoint
    address: StoreAddress
    io: PayloadIO
    store: ObjectStore

    def outage(self, seconds: float) -> None:
        """Once the first step is done; the time counts from when the training has noticed."""
        place = self.io.folder.parent
        until(lambda: (self.io.folder / "progress.jsonl").exists() and "step 1 of" in said(place, 1))
        self.endpoint.stop()
        until(lambda: "the store is away" in said(place, 1))
        time.sleep(seconds)
        self.endpoint.start()


def on_s3(folder: Path) -> OnS3:
    endpoint, place = Endpoint(folder / "s3"), folder / "attempt1"
    address = StoreAddress(url="s3://ft/x", endpoint=f"http://127.0.0.1:{endpoint.port}")
    place.mkdir()
    io = PayloadIO(place)
    store = open_store(address, folder / "cache", waiting=io.progress)
    store.put_tree(folder / "base")
    for path in folder.glob("shard-*.safetensors"):
        store.put_file(path)
    return OnS3(endpoint, address, io, store)


@pytest.mark.usefixtures("s3_credentials")
def test_a_store_that_is_away_for_a_while_is_waited_for(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full", steps=12, checkpoint_every=2)
    made = on_s3(tmp_path)
    storm = threading.Thread(target=made.outage, args=(1.0,))
    storm.start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        result = train(spec.model_copy(update={"store": made.address}), made.io, made.store)
        storm.join()
        assert result.outcome == "done"
        assert [int(name[-8:]) for name in made.store.list_docs(f"checkpoints/{spec.key}")] == [10, 12]
        assert made.store.has(result.artifacts["weights"])
    finally:
        signal.signal(signal.SIGTERM, before)
        storm.join()
        made.endpoint.stop()


# Real processes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_divergence_is_a_failed_check_with_the_curve_and_the_job_ends(bench: Bench) -> None:  # noqa: F811
    runaway = tiny_recipe(9, learning_rate=1e30, max_steps=40, warmup_ratio=1.0).model_copy(
        update={"parameterisation": "full"}
    )
    bench.parts.catalog.recipes.add(runaway)
    line = f"{DATASET}|tiny@9"
    result = bench.run(LINE, line)
    assert not result.success
    assert "the last good checkpoint stays" in bench.failure(result)
    assert bench.check("adapter", "loss_finite", line) == "FAILED"
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "loss_finite"]
    assert "the last good checkpoint stays" in str(check.metadata["message"].value)
    (job,) = bench.jobs.all()
    assert job["state"] == "failed"
    assert [row["outcome"] for row in bench.jobs.attempts(job["job"]) if row["stage"] == "training"] == ["diverged"]


def limited(extra: int) -> Callable[[PayloadSpec, Path], list[str]]:
    module = str(Path(__file__).with_name("training_limited.py"))
    return lambda spec, path: [sys.executable, module, str(extra), str(path)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_payload_without_room_goes_down_the_ladder_and_learns_the_same(tmp_path: Path) -> None:
    spec = wide_spec(tmp_path)
    undisturbed, _, _ = drive(spec.model_copy(update={"key": "b" * 64}), LocalLauncher(tmp_path / "payloads"))
    result, log, parts = drive(spec, LocalLauncher(tmp_path / "payloads", command=limited(192 << 20)))
    assert isinstance(result, PayloadResult), result
    assert isinstance(undisturbed, PayloadResult)
    rows = attempts_of(parts, JOB, spec.key)
    assert {row["outcome"] for row in rows[:-1]} == {"out_of_memory"}
    assert result.numbers["attempts"] == len(rows) >= 2
    assert "micro_batch 1024 -> 512" in log
    assert losses(tmp_path, result) == pytest.approx(losses(tmp_path, undisturbed), abs=1e-5)


def rank_process(handle: Handle, rank: int) -> Any:
    found = [p for p in marked(MARK, str(handle.folder)) if environment(p).get("RANK") == str(rank)]
    return min(found, key=lambda process: process.pid, default=None)


def wait_for_step(local: LocalLauncher, handle: Handle, step: int) -> None:
    def reached() -> bool:
        status = local.status(handle)
        assert isinstance(status, Running), status
        return status.progress.get("step", 0) >= step

    until(reached)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rank_that_stands_still_is_named_and_the_next_attempt_finishes(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full", steps=300, checkpoint_every=20, dropout=0.0).model_copy(
        update={"processes": 2, "strategy": "ddp", "accumulation": 1}
    )
    local = LocalLauncher(tmp_path / "payloads", heartbeat_timeout=300.0, kill_grace=5.0)
    first = local.submit(spec)
    wait_for_step(local, first, 25)
    stopped = rank_process(first, 1)
    send(stopped, signal.SIGSTOP)
    watching = LocalLauncher(tmp_path / "payloads", heartbeat_timeout=6.0, kill_grace=5.0)
    lost = watching.wait(first, lambda line: None, lambda: False, poll=0.2)
    assert lost.outcome == "failed"
    assert f"held up by rank 1 (process {stopped.pid}, stopped," in lost.message
    assert " in " in lost.message.partition("held up by rank 1")[2]
    assert "stacks-rank1:" in local.logs(first)
    assert marked(MARK, str(first.folder)) == []
    second = local.submit(spec)
    result = local.wait(second, lambda line: None, lambda: False, poll=0.2)
    assert (result.outcome, result.numbers["steps"]) == ("done", 300), result.message
    assert result.resumed_from >= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_over_the_same_rows(tmp_path: Path, first: int, then: int) -> None:
    alone = tiny_spec(tmp_path, kind="full", steps=120, checkpoint_every=10, dropout=0.0)
    local = LocalLauncher(tmp_path / "payloads")

    def on(processes: int) -> TrainSpec:
        fields = {
            "processes": processes,
            "accumulation": 2 // processes,
            "strategy": "ddp" if processes > 1 else "single",
        }
        return alone.model_copy(update={"key": "c" * 64, **fields})

    handle = local.submit(on(first))
    wait_for_step(local, handle, 25)
    for process in marked(MARK, str(handle.folder)):
        send(process, signal.SIGKILL)
    lost = local.wait(handle, lambda line: None, lambda: False, poll=0.1)
    assert lost.outcome == "failed", "killed while it trained"
    after = local.submit(on(then))
    result = local.wait(after, lambda line: None, lambda: False, poll=0.2)
    assert result.outcome == "done", result.message + local.logs(after, last=30)
    assert result.resumed_from >= 10
    whole = local.wait(local.submit(alone), lambda line: None, lambda: False, poll=0.2)
    assert losses(tmp_path, result) == pytest.approx(losses(tmp_path, whole), abs=1e-5)
    assert len(losses(tmp_path, result)) == 120
    assert f"goes on with {then}" in (after.folder / "progress.jsonl").read_text()
    assert json.loads((after.folder / "attempt.json").read_text())["attempt"] == 2
    assert store_in(tmp_path)[1].list_docs(f"checkpoints/{alone.key}")
