"""Every strategy in real processes: the same training as in one, resumed, under another strategy, on two nodes, with other methods."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed_support import Ran, assert_same_training, divided, in_processes, undisturbed, without_dropout
from methods_support import flat, kto, method_spec, pairs
from training_support import store_in

from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.recipe import Strategy
from ftplatform.launchers import LocalLauncher, Running
from ftplatform.launchers.environment import MARK
from ftplatform.launchers.processes import marked, send
from ftplatform.launchers.torchrun import torchrun_command
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.job import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3", "offload"])
def test_two_processes_train_what_one_trains(tmp_path: Path, strategy: Strategy, kind: str) -> None:
    alone = undisturbed(tmp_path, kind)
    assert_same_training(tmp_path, alone, in_processes(tmp_path, divided(alone.spec, strategy)))


def test_one_process_trains_with_its_optimizer_states_in_the_host(tmp_path: Path) -> None:
    alone = undisturbed(tmp_path, "full")
    assert_same_training(tmp_path, alone, in_processes(tmp_path, divided(alone.spec, "offload", processes=1)))


def test_recomputed_activations_change_nothing_under_fsdp2(tmp_path: Path) -> None:
    alone = undisturbed(tmp_path, "lora")
    spec = divided(alone.spec, "fsdp2").model_copy(update={"gradient_checkpointing": True})
    assert_same_training(tmp_path, alone, in_processes(tmp_path, spec))


def _killed_after_a_checkpoint(launcher: LocalLauncher, folder: Path, spec: TrainSpec) -> None:
    """kill -9 of all processes, as soon as a checkpoint is committed."""
    handle = launcher.submit(spec)
    store, deadline = store_in(folder)[1], time.monotonic() + 300
    while not store.list_docs(f"checkpoints/{spec.key}"):
        assert time.monotonic() < deadline
        assert isinstance(status := launcher.status(handle), Running), status
        time.sleep(0.05)
    for process in marked(MARK, str(handle.folder)):
        send(process, signal.SIGKILL)
    assert launcher.wait(handle, lambda line: None, lambda: False, poll=0.1).outcome == "failed"


@pytest.mark.parametrize(
    ("kind", "strategy", "other"),
    [("full", "fsdp2", "fsdp2"), ("full", "zero3", "zero3"), ("lora", "zero2", "zero2"), ("lora", "fsdp2", "ddp"),
     ("full", "zero3", "fsdp2"), ("full", "ddp", "offload")],
)  # fmt: skip
def test_a_killed_training_goes_on_under_the_same_or_another_strategy(
    tmp_path: Path, kind: str, strategy: Strategy, other: Strategy
) -> None:
    steps = {"steps": 60, "checkpoint_every": 10, "learning_rate": 1e-3}
    alone = undisturbed(tmp_path, kind, **steps)
    launcher, spec = LocalLauncher(tmp_path / "payloads"), divided(alone.spec, strategy)
    _killed_after_a_checkpoint(launcher, tmp_path, spec)
    resumed = in_processes(tmp_path, spec.model_copy(update={"strategy": other}), launcher)
    assert 10 <= resumed.result.resumed_from < 60
    assert_same_training(tmp_path, alone, resumed)


def test_a_training_of_two_processes_goes_on_in_one(tmp_path: Path) -> None:
    alone = undisturbed(tmp_path, "full", steps=60, checkpoint_every=10, learning_rate=1e-3)
    launcher, spec = LocalLauncher(tmp_path / "payloads"), divided(alone.spec, "fsdp2")
    _killed_after_a_checkpoint(launcher, tmp_path, spec)
    one = alone.spec.model_copy(update={"key": spec.key})
    assert_same_training(tmp_path, alone, in_processes(tmp_path, one, launcher))


def _nodes(folder: Path, specs: list[TrainSpec]) -> list[Path]:
    """Every node with a folder of its own, as if they were two machines; returns the folders when all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{free.getsockname()[1]}"
    source = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}
    started, places = [], []
    for number, spec in enumerate(specs):
        place = folder / f"node{number}"
        place.mkdir()
        (place / "spec.json").write_text(spec.model_dump_json())
        command = torchrun_command(spec, sys.executable, place / "spec.json", node_rank=number, rendezvous=rendezvous)
        with (place / "log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log))
        places.append(place)
    try:
        for process in started:
            process.wait(timeout=600)
    finally:
        for process in started:
            process.kill()
    return places


def _result(place: Path) -> PayloadResult:
    return PayloadResult.model_validate_json((place / "result.json").read_text())


def test_two_nodes_train_what_one_process_trains(tmp_path: Path) -> None:
    alone = undisturbed(tmp_path, "lora")
    spec = divided(alone.spec, "fsdp2").model_copy(update={"nodes": 2})
    first, second = _nodes(tmp_path, [spec, spec])
    result = _result(first)
    assert result.outcome == "done", result.message + (first / "log").read_text()[-3000:]
    assert not (second / "result.json").exists()
    assert_same_training(tmp_path, alone, dataclasses.replace(alone, result=result))


def test_nodes_with_another_spec_end_with_a_sentence_before_anything_is_trained(tmp_path: Path) -> None:
    spec = divided(without_dropout(tmp_path, "lora"), "ddp").model_copy(update={"nodes": 2})
    first, second = _nodes(tmp_path, [spec, spec.model_copy(update={"steps": 7})])
    result = _result(first)
    assert (result.outcome, "rank 1 on" in result.message) == ("failed", True), result.message
    assert "has another spec than rank 0" in result.message
    # The other node's agent may be told of the end before its own rank has written the reason down.
    assert not (second / "result.json").exists()
    assert "training" not in {
        json.loads(line)["message"] for line in (first / "progress.jsonl").read_text().splitlines()
    }


@pytest.mark.parametrize(
    ("method", "strategy"),
    [("dpo", "fsdp2"), ("dpo", "zero2"), ("kto", "fsdp2"), ("reward", "fsdp2"), ("reward", "zero2"),
     ("distillation", "fsdp2"), ("distillation", "zero3")],
)  # fmt: skip
def test_other_methods_train_the_same_divided(tmp_path: Path, method: str, strategy: Strategy) -> None:
    """Numbers of rows that leave a process without any when the starting model is asked."""
    made = kto if method == "kto" else lambda count, seed: flat(pairs(count, seed))
    splits = {"train": made(21, 0), "validation": made(5, 1)}
    if method == "distillation":
        spec = method_spec(tmp_path, method, None, {"teacher": "starter@00000001"}, steps=4)
        spec = spec.model_copy(update={"teacher_weights": spec.base_weights})
    else:
        spec = method_spec(tmp_path, method, splits, steps=4)
    place = tmp_path / "alone"
    place.mkdir()
    alone = Ran(spec, train(spec, PayloadIO(place), store_in(tmp_path)[1]), [])
    together = divided(spec, strategy, "c" * 64)
    assert_same_training(tmp_path, alone, in_processes(tmp_path, together), tolerance=1e-3)
