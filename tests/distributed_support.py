"""Trainings of the tiny base in one process and in two, and what has to be equal between them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from training_support import store_in, tiny_spec

from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.recipe import Strategy
from ftplatform.launchers.local import LocalLauncher
from ftplatform.launchers.processes import marked
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.job import train


@dataclass(frozen=True)
class Ran:
    spec: TrainSpec
    result: PayloadResult
    messages: list[str]


def without_dropout(folder: Path, kind: str, key: str = "a" * 64, **fields: Any) -> TrainSpec:
    """Each process draws its own dropout, so there is none where processes are compared."""
    spec = tiny_spec(folder, key, kind=kind, dropout=0.0, **fields)
    return spec.model_copy(update={"lora": spec.lora.model_copy(update={"dropout": 0.0})})


def divided(spec: TrainSpec, strategy: Strategy, key: str = "b" * 64, processes: int = 2) -> TrainSpec:
    """The same training with half the micro-batch, so that gradients are accumulated."""
    update = {"key": key, "processes": processes, "strategy": strategy, "micro_batch": spec.micro_batch // processes}
    return spec.model_copy(update=update)


def undisturbed(folder: Path, kind: str, **fields: Any) -> Ran:
    """In this process."""
    spec, place = without_dropout(folder, kind, **fields), folder / "alone"
    place.mkdir()
    return Ran(spec, train(spec, PayloadIO(place), store_in(folder)[1]), [])


def in_processes(folder: Path, spec: TrainSpec, launcher: LocalLauncher | None = None) -> Ran:
    launcher = launcher or LocalLauncher(folder / "payloads")
    handle = launcher.submit(spec)
    result = launcher.wait(handle, lambda line: None, lambda: False, poll=0.2)
    assert result.outcome == "done", result.message + launcher.logs(handle, last=60)
    assert marked("FTPLATFORM_PAYLOAD", str(handle.folder)) == []
    lines = (handle.folder / "progress.jsonl").read_text().splitlines()
    return Ran(spec, result, [json.loads(line)["message"] for line in lines])


def figures(folder: Path, result: PayloadResult) -> list[dict[str, float]]:
    return [json.loads(line) for line in store_in(folder)[1].get_bytes(result.artifacts["metrics"]).splitlines()]


def weights(folder: Path, result: PayloadResult) -> dict[str, torch.Tensor]:
    _, store = store_in(folder)
    (file,) = (f for f in store.tree(result.artifacts["weights"]).files if f.path.endswith(".safetensors"))
    return load(store.get_bytes(file.digest))


def assert_same_training(folder: Path, one: Ran, two: Ran, tolerance: float = 1e-5) -> None:
    """Losses, gradient norms, evaluation and saved weights, name by name."""
    ours, theirs = figures(folder, one.result), figures(folder, two.result)
    assert [line["step"] for line in theirs] == [line["step"] for line in ours]
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in theirs] == pytest.approx(
            [line[name] for line in ours], rel=tolerance, abs=1e-6
        ), name
    assert two.result.numbers["eval_loss"] == pytest.approx(one.result.numbers["eval_loss"], rel=tolerance)
    mine, other = weights(folder, one.result), weights(folder, two.result)
    assert mine.keys() == other.keys()
    for name in mine:
        torch.testing.assert_close(other[name], mine[name], rtol=0, atol=tolerance)
