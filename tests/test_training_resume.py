"""kill -9 at any moment, start again: the weights are those of a training that nobody disturbed, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from training_support import store_in, tiny_spec

from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.launchers import Handle, LocalLauncher, Running
from ftplatform.launchers.environment import MARK
from ftplatform.launchers.processes import environment, marked, send

STEPS = 200
CURVE = ("step", "loss", "grad_norm", "learning_rate")


def finish(local: LocalLauncher, handle: Handle) -> PayloadResult:
    return local.wait(handle, lambda progress: None, lambda: False, poll=0.1)


def until_step(local: LocalLauncher, handle: Handle, step: int) -> None:
    deadline = time.monotonic() + 120
    while not (isinstance(status := local.status(handle), Running) and status.progress.get("step", 0) >= step):
        assert time.monotonic() < deadline
        assert isinstance(status, Running), status
        time.sleep(0.02)


def kill(local: LocalLauncher, handle: Handle, *, delay: float, in_checkpoint: bool) -> None:
    """kill -9 of all its processes: ``delay`` seconds after the first step, or as soon as a later checkpoint is being
    written.
    """
    checkpoints = handle.folder / "work" / "checkpoints"
    until_step(local, handle, 1)
    deadline = time.monotonic() + 120
    if in_checkpoint:
        while not any(int(path.name.rpartition("-")[2]) >= 40 for path in checkpoints.glob("checkpoint-*")):
            assert time.monotonic() < deadline
        time.sleep(delay / 50)
    else:
        time.sleep(delay)
    for process in marked(MARK, str(handle.folder)):
        send(process, signal.SIGKILL)


def curve(spec: TrainSpec, folder: Path, result: PayloadResult) -> list[list[float]]:
    lines = store_in(folder)[1].get_bytes(result.artifacts["metrics"]).splitlines()
    return [[json.loads(line)[name] for name in CURVE] for line in lines]


def job(folder: Path, kind: str, key: str) -> TrainSpec:
    """200 steps with dropout on and a checkpoint every 20; keys differ so that nothing is shared but the inputs."""
    return tiny_spec(folder, key * 64, kind=kind, steps=STEPS, checkpoint_every=20)


def test_a_killed_lora_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path / "payloads")
    undisturbed = local.submit(job(tmp_path, "lora", "a"))
    spec = job(tmp_path, "lora", "b")
    first = local.submit(spec)
    kill(local, first, delay=random.uniform(0, 0.5), in_checkpoint=True)
    lost = finish(local, first)
    assert (lost.outcome, "a retry helps" in lost.message) == ("failed", True)
    second = local.submit(spec)
    resumed, whole = finish(local, second), finish(local, undisturbed)
    assert whole.outcome == "done", whole.message
    assert (second.attempt, resumed.outcome) == (2, "done"), resumed.message
    assert 20 <= resumed.resumed_from < STEPS
    assert resumed.artifacts["weights"] == whole.artifacts["weights"]
    assert resumed.artifacts["fingerprint"] == whole.artifacts["fingerprint"]
    assert curve(spec, tmp_path, resumed) == curve(spec, tmp_path, whole)
    assert [point[0] for point in curve(spec, tmp_path, resumed)] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_out_of_ten_resume_to_the_same_bits(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path / "payloads")
    wanted = {
        kind: finish(local, local.submit(job(tmp_path, kind, kind[0]))).artifacts["weights"]
        for kind in ("lora", "full")
    }
    seed = int.from_bytes(os.urandom(4))
    draw = random.Random(seed)
    resumed_from = []
    for number in range(10):
        kind = ("lora", "full")[number % 2]
        spec = job(tmp_path, kind, str(number))
        first = local.submit(spec)
        kill(local, first, delay=draw.uniform(0, 3), in_checkpoint=number % 5 >= 3)
        lost = finish(local, first)
        result = lost if lost.outcome == "done" else finish(local, local.submit(spec))
        resumed_from.append(result.resumed_from)
        assert result.artifacts["weights"] == wanted[kind], (
            f"seed {seed}, kill {number}, resumed from {result.resumed_from}"
        )
    assert sum(step > 0 for step in resumed_from) >= 5, (
        f"seed {seed}: too few kills fell into the training: {resumed_from}"
    )


def test_sigterm_commits_a_checkpoint_and_the_next_attempt_goes_on_from_it(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path / "payloads")
    steps = {"steps": 400, "checkpoint_every": 1000}
    whole = local.submit(tiny_spec(tmp_path, "b" * 64, kind="full", **steps))
    spec = tiny_spec(tmp_path, kind="full", **steps)
    first = local.submit(spec)
    until_step(local, first, 1)
    result = local.wait(first, lambda progress: None, lambda: True, poll=0.1)
    assert result.outcome == "preempted", result.message
    documents = store_in(tmp_path)[1].list_docs(f"checkpoints/{spec.key}")
    assert len(documents) == 1
    step = int(documents[0][-8:])
    assert f"terminated at step {step} of 400" in result.message
    resumed, undisturbed = finish(local, local.submit(spec)), finish(local, whole)
    assert (resumed.outcome, resumed.resumed_from) == ("done", step), resumed.message
    assert resumed.artifacts["weights"] == undisturbed.artifacts["weights"]
    assert curve(spec, tmp_path, resumed) == curve(spec, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("receiver", ["rank 1", "torchrun"])
def test_sigterm_to_a_part_of_two_ranks_ends_both_at_one_checkpoint_and_costs_no_bit(
    tmp_path: Path, receiver: str
) -> None:
    """DDP over gloo, dropout on: what only one rank hears is agreed on, and each rank's random state comes back."""
    local = LocalLauncher(tmp_path / "payloads")

    def together(key: str) -> TrainSpec:
        spec = tiny_spec(tmp_path, key * 64, kind="full", steps=300, checkpoint_every=1000)
        return spec.model_copy(update={"processes": 2, "strategy": "ddp", "accumulation": 1})

    undisturbed = finish(local, local.submit(together("a")))
    assert undisturbed.outcome == "done", undisturbed.message
    spec = together("b")
    first = local.submit(spec)
    until_step(local, first, 1)
    everyone = [
        p for p in marked(MARK, str(first.folder)) if receiver == "torchrun" or environment(p).get("RANK") == "1"
    ]
    send(min(everyone, key=lambda process: process.pid), signal.SIGTERM)
    lost = finish(local, first)
    assert lost.outcome == "preempted", lost.message + local.logs(first, last=40)
    store = store_in(tmp_path)[1]
    (document,) = store.list_docs(f"checkpoints/{spec.key}")
    step = int(document[-8:])
    assert f"terminated at step {step} of 300" in lost.message
    files = {file.path for file in store.tree(store.get_doc(document)["tree"]).files}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= files
    assert marked(MARK, str(first.folder)) == []
    resumed = finish(local, local.submit(spec))
    assert (resumed.outcome, resumed.resumed_from) == ("done", step), resumed.message
    assert resumed.artifacts["weights"] == undisturbed.artifacts["weights"]
    assert curve(spec, tmp_path, resumed) == curve(spec, tmp_path, undisturbed)
