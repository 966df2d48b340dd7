"""Trainings that go wrong for real, in this process: too little memory, another number of processes, a store away, a choice
among checkpoints.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from training_support import LENGTH, VOCABULARY, store_in, tiny_spec

from ftplatform.assets.attempts import smaller
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import PayloadIO, outcome_of
from ftplatform.training.activation_checkpointing import checkpoint_activations
from ftplatform.training.checkpoints import Checkpoints
from ftplatform.training.job import train
from ftplatform.training.model import trainable_model


@pytest.fixture(autouse=True)
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(spec: TrainSpec, folder: Path, number: int = 1, store: ObjectStore | None = None) -> PayloadResult:
    place = folder / f"attempt{number}"
    place.mkdir()
    (place / "attempt.json").write_text(json.dumps({"attempt": number}))
    return train(spec, PayloadIO(place), store or store_in(folder)[1])


def losses(folder: Path, result: PayloadResult, name: str = "loss") -> list[float]:
    lines = store_in(folder)[1].get_bytes(result.artifacts["metrics"]).splitlines()
    return [record[name] for line in lines if name in (record := json.loads(line))]


def weights(folder: Path, result: PayloadResult) -> dict[str, torch.Tensor]:
    store = store_in(folder)[1]
    (file,) = (f for f in store.tree(result.artifacts["weights"]).files if f.path.endswith(".safetensors"))
    return load(store.get_bytes(file.digest))


def said(folder: Path, number: int) -> str:
    return (folder / f"attempt{number}" / "progress.jsonl").read_text()


@contextmanager
def memory(extra: int) -> Iterator[None]:
    """This process may have ``extra`` bytes more than it uses now; what it freed and kept goes back first."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def wide_spec(folder: Path, rows: int = 1024) -> TrainSpec:
    """A step of 32,768 tokens, whose activations are about 200 MB."""
    spec = tiny_spec(folder, kind="full", steps=2, batch_size=rows, checkpoint_every=1, dropout=0.0)
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(2, VOCABULARY, (rows * 2, LENGTH), generator=draw).to(torch.int32)
    positions = torch.arange(LENGTH, dtype=torch.int32).expand_as(ids).contiguous()
    save_file({"input_ids": ids, "labels": ids.clone(), "position_ids": positions}, folder / "wide")
    shards = {"train": (store_in(folder)[1].put_file(folder / "wide"),)}
    return spec.model_copy(update={"shards": shards, "micro_batch": rows, "accumulation": 1})


def attempt(spec: TrainSpec, folder: Path, number: int) -> PayloadResult | None:
    """The result, or None where the payload would have told that memory did not suffice."""
    try:
        return run(spec, folder, number)
    except RuntimeError as error:
        if outcome_of(error) != "out_of_memory":
            raise
        return None


@pytest.mark.slow
def test_a_micro_batch_that_does_not_fit_is_told_and_a_smaller_one_learns_the_same(tmp_path: Path) -> None:
    spec = wide_spec(tmp_path)
    whole, tried = spec.model_copy(update={"key": "b" * 64}), []
    run(spec.model_copy(update={"key": "c" * 64, "micro_batch": 64, "accumulation": 16}), tmp_path, 11)
    with memory(128 << 20):
        while (result := attempt(spec, tmp_path, len(tried) + 1)) is None:
            tried.append(spec.micro_batch)
            smaller_one = smaller(spec)
            assert smaller_one, f"nothing fitted: {tried}"
            spec = smaller_one
    assert tried
    assert tried[0] == 1024
    assert result.outcome == "done"
    undisturbed = run(whole, tmp_path, 10)
    assert losses(tmp_path, result) == pytest.approx(losses(tmp_path, undisturbed), abs=1e-5)


def test_activation_checkpointing_computes_every_block_twice_and_the_same_training(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, steps=3)
    plain = run(spec, tmp_path, 1)
    thrifty = run(spec.model_copy(update={"key": "b" * 64, "gradient_checkpointing": True}), tmp_path, 2)
    assert thrifty.artifacts["weights"] == plain.artifacts["weights"], "dropout is drawn again from the same state"
    model = trainable_model(spec, store_in(tmp_path)[1].fetch_tree(spec.base_weights, tmp_path / "b")).train()
    calls: list[str] = []
    attention = model.get_base_model().model.layers[0].self_attn
    attention.register_forward_hook(lambda *args: calls.append("forward"))
    for wanted in (1, 2):
        calls.clear()
        model(input_ids=torch.full((1, 8), 3), labels=torch.full((1, 8), 3)).loss.backward()
        assert len(calls) == wanted
        checkpoint_activations(model)


def test_prefix_tuning_with_activation_checkpointing_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="prefix")
    with pytest.raises(InvalidConfig, match="prefix"):
        run(spec.model_copy(update={"gradient_checkpointing": True}), tmp_path)


def test_a_checkpoint_of_two_processes_goes_on_with_one_over_the_same_rows(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full", steps=6, dropout=0.0, checkpoint_every=3)
    whole = run(spec, tmp_path, 1)
    store = store_in(tmp_path)[1]
    before = Checkpoints(store, spec.key, 1, 2)
    folder = before.fetch(3, tmp_path / "three")
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    (folder / "rng_state_1.pth").write_bytes((folder / "rng_state_0.pth").read_bytes())
    other = spec.model_copy(update={"key": "c" * 64, "micro_batch": 4, "accumulation": 1})
    Checkpoints(store, other.key, 1, 2).commit(folder, 3)
    torch.manual_seed(99)
    result = run(other, tmp_path, 2)
    assert result.resumed_from == 3
    assert "written by 2 processes and goes on with 1" in said(tmp_path, 2)
    assert losses(tmp_path, result) == pytest.approx(losses(tmp_path, whole), abs=1e-5)


def test_evaluations_change_no_bit_and_the_best_one_is_what_is_kept(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, steps=16, learning_rate=0.05, checkpoint_every=5, keep_checkpoints=1)
    alone = run(spec, tmp_path, 1)
    seen = spec.training.model_copy(update={"evaluate_every": 2})
    watched = run(spec.model_copy(update={"key": "b" * 64, "training": seen}), tmp_path, 2)
    assert watched.artifacts["weights"] == alone.artifacts["weights"]
    assert losses(tmp_path, watched) == losses(tmp_path, alone)
    found = losses(tmp_path, watched, "eval_loss")
    assert len(found) == 8
    assert watched.numbers["eval_loss"] == found[-1]

    best = spec.training.model_copy(update={"evaluate_every": 2, "keep": "best", "patience": 3})
    chosen = spec.model_copy(update={"key": "c" * 64, "training": best})
    result = run(chosen, tmp_path, 3)
    lowest = 2 * (1 + found.index(min(found)))
    assert lowest <= 8, "this rate is too high on purpose, so that the best comes early"
    assert result.numbers["kept_step"] == lowest
    assert result.numbers["steps"] == lowest + 6, "three evaluations without a better one"
    assert result.numbers["eval_loss"] == min(found)
    assert "stopped early" in result.message
    names = store_in(tmp_path)[1].list_docs(f"checkpoints/{chosen.key}")
    assert [int(name[-8:]) for name in names] == [lowest, lowest + 6], "the newest, and the best whatever its age"

    again = run(chosen, tmp_path, 4)
    assert again.resumed_from == lowest + 6
    assert again.artifacts["weights"] == result.artifacts["weights"], (
        "an attempt that comes after the early stop stays there"
    )


def test_evaluations_without_a_validation_row_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, evaluate_every=2)
    with pytest.raises(InvalidConfig, match="validation share"):
        run(spec.model_copy(update={"shards": {"train": spec.shards["train"]}}), tmp_path)


def test_a_divergence_hands_its_curve_over(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full", steps=400, learning_rate=1e30, warmup_ratio=1.0)
    result = run(spec, tmp_path)
    assert result.outcome == "diverged"
    assert len(losses(tmp_path, result)) == result.numbers["steps"] - 1


class SlowStore:
    """Blobs whose next ``put_path`` waits until it is told to go on, or fails."""

    def __init__(self, blobs: Any) -> None:
        self._blobs, self.go, self.failure = blobs, threading.Event(), None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    def put_path(self, name: str, path: Path) -> None:
        assert self.go.wait(60)
        if self.failure:
            raise self.failure
        self._blobs.put_path(name, path)


def test_the_training_goes_on_while_a_checkpoint_is_stored_and_ends_after_it(tmp_path: Path) -> None:
    spec, store = tiny_spec(tmp_path, kind="full", steps=8, checkpoint_every=8), store_in(tmp_path)[1]
    slow = SlowStore(store._blobs)
    forced = spec.model_copy(update={"training": spec.training.model_copy(update={"checkpoint_every": 3})})
    reached: list[int] = []

    def open_at_the_end() -> None:
        told, deadline = tmp_path / "attempt1" / "progress.jsonl", time.monotonic() + 60
        while not (told.exists() and "step 1 of" in told.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)
        reached.append(len(list((tmp_path / "attempt1" / "work" / "checkpoints").glob("checkpoint-*"))))
        slow.go.set()

    opener = threading.Thread(target=open_at_the_end)
    opener.start()
    result = run(forced, tmp_path, 1, ObjectStore(slow))
    opener.join()
    assert result.outcome == "done"
    assert reached == [2], "the first is on its way, the second waits for it, and there is no third"
    assert [int(name[-8:]) for name in store.list_docs(f"checkpoints/{spec.key}")] == [6, 8]


def test_a_checkpoint_that_does_not_arrive_fails_the_training_with_its_reason(tmp_path: Path) -> None:
    spec, store = tiny_spec(tmp_path, kind="full", steps=2000, checkpoint_every=2), store_in(tmp_path)[1]
    broken = SlowStore(store._blobs)
    broken.failure = PermissionError("the key may not write here")
    broken.go.set()
    with pytest.raises(PermissionError, match="may not write"):
        run(spec, tmp_path, 1, ObjectStore(broken))
    assert store.list_docs("checkpoints") == []
