"""Losses that run away for real: not finite at a known step, finite and far too high for good, and for one step only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from test_training_recovery import _sigterm_as_before, run, said  # noqa: F401 - the first is a fixture
from training_support import LENGTH, VOCABULARY, store_in, tiny_spec
from transformers import LlamaForCausalLM

from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.training.checkpoints import Checkpoints
from ftplatform.training.shards import RowOrder

WORST = 2 * math.log(VOCABULARY)
"""Twice the loss of guessing."""


def records(folder: Path, result: PayloadResult) -> list[dict[str, float]]:
    lines = store_in(folder)[1].get_bytes(result.artifacts["metrics"]).splitlines()
    return [json.loads(line) for line in lines]


def committed(spec: TrainSpec, folder: Path) -> list[int]:
    return [int(name[-8:]) for name in store_in(folder)[1].list_docs(f"checkpoints/{spec.key}")]


def with_rows(spec: TrainSpec, folder: Path, ids: torch.Tensor) -> TrainSpec:
    """``spec`` trained on rows of one document each, every token of it labelled."""
    positions = torch.arange(LENGTH).expand_as(ids)
    tensors = {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}
    save_file({name: value.to(torch.int32).contiguous() for name, value in tensors.items()}, folder / "rows")
    return spec.model_copy(update={"shards": {"train": (store_in(folder)[1].put_file(folder / "rows"),)}})


def cycles(count: int) -> torch.Tensor:
    """Rows that count up and begin again after twenty, so that every next token can be known."""
    start = torch.randint(0, 20, (count, 1), generator=torch.Generator().manual_seed(0))
    return 2 + (start + torch.arange(LENGTH)) % 20


def row_of_step(spec: TrainSpec, rows: int, step: int) -> int:
    """A row that step ``step``, counted from 1, is the first to see."""
    order = RowOrder(rows, spec.training.batch_size, spec.training.seed)
    assert step * spec.training.batch_size <= rows
    return int(order.of_step(step - 1)[0])


def checkpoint(spec: TrainSpec, folder: Path, step: int) -> LlamaForCausalLM:
    into = Checkpoints(store_in(folder)[1], spec.key, 1, 2).fetch(step, folder / f"step{step}")
    assert "optimizer.pt" in {path.name for path in into.iterdir()}
    return LlamaForCausalLM.from_pretrained(into).eval()


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A token whose embedding is broken, as that of a token nobody ever trained may be, in one row of the fifth step."""
    spec, store, rows = (
        tiny_spec(tmp_path, kind="full", steps=40, checkpoint_every=1),
        store_in(tmp_path)[1],
        cycles(24),
    )
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[VOCABULARY - 1] = math.inf
    model.save_pretrained(tmp_path / "base")
    rows[row_of_step(spec, len(rows), 5), 3] = VOCABULARY - 1
    spec = with_rows(spec, tmp_path, rows).model_copy(update={"base_weights": store.put_tree(tmp_path / "base")})
    result = run(spec, tmp_path)
    assert result.outcome == "diverged"
    assert result.message == "loss became nan at step 5; the last good checkpoint stays, a retry does not help"
    assert [one["step"] for one in records(tmp_path, result)] == [1, 2, 3, 4]
    assert committed(spec, tmp_path) == [3, 4]
    before, after = (LlamaForCausalLM.from_pretrained(tmp_path / "base"), checkpoint(spec, tmp_path, 4))
    assert loss_of(after, cycles(24)) < loss_of(before, cycles(24))


def test_a_finite_loss_that_stays_far_too_high_ends_the_training_and_evicts_no_good_checkpoint(tmp_path: Path) -> None:
    """A learning rate that climbs from a good one to one that is hundreds of times too high."""
    spec = tiny_spec(tmp_path, kind="full", steps=200, learning_rate=100.0, warmup_ratio=1.0, checkpoint_every=1)
    result = run(spec, tmp_path)
    assert result.outcome == "diverged"
    assert "the loss diverged (median" in result.message
    assert f"over 20 steps, above {WORST:.2f}) at step" in result.message
    told = records(tmp_path, result)
    assert all(math.isfinite(one["loss"]) for one in told)
    good = [int(one["step"]) for one in told if one["loss"] <= WORST]
    kept = committed(spec, tmp_path)
    assert len(kept) == 2
    assert set(kept) <= set(good)
    tensors = load_file(tmp_path / "shard-0.safetensors")
    assert loss_of(checkpoint(spec, tmp_path, kept[0]), tensors["input_ids"].long()) < WORST


def test_a_spike_is_said_and_counted_and_the_training_goes_on(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 2, "dropout": 0.0}
    spec = tiny_spec(tmp_path, kind="full", steps=40, **fields).model_copy(update={"accumulation": 1})
    rows = cycles(80)
    poisoned = row_of_step(spec, len(rows), 35)
    rows[poisoned] = torch.randint(22, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))
    result = run(with_rows(spec, tmp_path, rows), tmp_path)
    assert (result.outcome, result.numbers["steps"]) == ("done", 40)
    spikes = [int(one["step"]) for one in records(tmp_path, result) if "loss_spike" in one]
    assert spikes[0] == 35
    assert result.numbers["loss_spikes"] == len(spikes)
    assert "loss spike at step 35: " in said(tmp_path, 1)
    assert "the median of the 20 steps before is" in said(tmp_path, 1)
