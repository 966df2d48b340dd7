"""Each process of several draws its own dropout from the first step on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distributed_support import divided, in_processes
from training_support import store_in, tiny_spec
from transformers import set_seed

from ftplatform.training import resuming


def drawn(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int, seed: int = 17) -> float:
    monkeypatch.setattr(resuming, "world", lambda: (rank, processes))
    set_seed(seed)
    resuming.own_random_stream(seed)
    return float(torch.rand(()))


def test_processes_draw_from_streams_of_their_own_and_one_from_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [drawn(monkeypatch, rank, 4) for rank in range(4)]
    assert len(set(several)) == 4
    assert several == [drawn(monkeypatch, rank, 4) for rank in range(4)], "another attempt draws the same"
    assert drawn(monkeypatch, 0, 4, seed=18) not in several
    assert drawn(monkeypatch, 0, 1) == float(torch.manual_seed(17) and torch.rand(()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_of_two_processes_begins_with_two_streams(tmp_path: Path) -> None:
    spec = divided(tiny_spec(tmp_path, steps=2, checkpoint_every=2), "ddp")
    in_processes(tmp_path, spec)
    store = store_in(tmp_path)[1]
    tree = store.get_doc(store.list_docs(f"checkpoints/{spec.key}")[-1])["tree"]
    folder = store.fetch_tree(tree, tmp_path / "checkpoint", without=("optimizer.pt",))
    states = [torch.load(folder / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in range(2)]
    assert not torch.equal(*states)
