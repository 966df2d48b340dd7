"""The end of a training: what is stored before the proof, and what the best checkpoint is fetched for."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from distributed_support import divided, in_processes, without_dropout
from methods_support import run
from training_support import store_in, tiny_spec

from ftplatform.store import ObjectStore
from ftplatform.training.methods.base import TrainingMethod


def test_a_proof_that_dies_costs_nothing_that_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec(tmp_path, steps=4)
    shutil.copytree(tmp_path / "store", tmp_path / "other" / "store")
    undisturbed = run(spec, tmp_path / "other")

    def dies(*given: Any) -> None:
        raise MemoryError("no room for the base in fp32")

    with monkeypatch.context() as patched:
        patched.setattr(TrainingMethod, "prove", dies)
        with pytest.raises(MemoryError):
            run(spec, tmp_path, 1)
    assert store_in(tmp_path)[1].has(undisturbed.artifacts["weights"]), "the weights were stored before"
    again = run(spec, tmp_path, 2)
    assert (again.outcome, again.resumed_from) == ("done", 4), "no step is trained again"
    assert again.artifacts == undisturbed.artifacts | {"metrics": again.artifacts["metrics"]}


BEST = {"steps": 16, "learning_rate": 0.05, "checkpoint_every": 5, "evaluate_every": 2, "keep": "best"}
"""A rate that is too high on purpose, so that the best comes early."""


def test_of_the_best_checkpoint_the_optimizer_states_stay_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[tuple[str, ...]] = []
    fetch = ObjectStore.fetch_tree

    def seen(self: ObjectStore, digest: str, into: Path, without: Collection[str] = ()) -> Path:
        left.append(tuple(without))
        assert not without or set(without) <= {file.path for file in self.tree(digest).files}
        return fetch(self, digest, into, without)

    monkeypatch.setattr(ObjectStore, "fetch_tree", seen)
    result = run(tiny_spec(tmp_path, **BEST), tmp_path)
    assert result.numbers["kept_step"] < result.numbers["steps"]
    assert left == [(), ("optimizer.pt",)], "the base, and the best weights"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_take_the_best_weights_back(tmp_path: Path, strategy: Any) -> None:
    spec = divided(without_dropout(tmp_path, "full", **BEST), strategy)
    result = in_processes(tmp_path, spec).result
    assert result.numbers["kept_step"] < result.numbers["steps"]
