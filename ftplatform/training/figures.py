"""What a step did per second: tokens, supervised tokens, model FLOPs utilisation; its memory."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import torch

from ftplatform.core.errors import PlanRefused
from ftplatform.core.methods import find_method
from ftplatform.core.payload import TrainSpec
from ftplatform.planning.flops import model_flops
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.training.methods.base import Examples
from ftplatform.training.shards import IGNORED, RowOrder, Rows, ShardRows

_SIDE = {"cpu": 512, "cuda": 4096}
"""Of the square matrices whose product tells a device's rate: a few milliseconds each."""


class Meter:
    """Figures of each step, over all processes. ``peak`` is the rate of all devices together, in FLOPs per second."""

    def __init__(self, spec: TrainSpec, examples: Examples, shape: ModelShape | None, peak: float) -> None:
        self._spec, self._examples, self._shape, self._peak = spec, examples, shape, peak
        self._order = RowOrder(len(examples), spec.training.batch_size, spec.training.seed)
        self._method, self._setup = find_method(spec.method), setup_of(spec)
        self._generated = spec.options["group_size"] * spec.training.batch_size if self._method.generates else 0

    def figures(self, step: int, seconds: float, logs: dict[str, float]) -> dict[str, float]:
        """Of optimizer step ``step``, counted from 1, that took ``seconds``; ``logs`` is what its method said of it.

        Tokens are real ones, without padding; supervised ones carry loss. ``mfu`` is a share of ``peak`` and is missing where
        the architecture cannot be sized. ``memory_gb`` is ``peak_memory`` so far;
        ``memory_reserved_gb`` what the allocator has taken from the GPU.
        """
        tokens, supervised, length = self._counts(step, logs)
        found = {
            "tokens_per_second": round(tokens / seconds, 1),
            "supervised_tokens_per_second": round(supervised / seconds, 1),
            "memory_gb": round(peak_memory() / 1e9, 4),
        }
        if torch.cuda.is_available():
            found["memory_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 4)
        if self._shape is not None:
            labelled = supervised if self._method.answers else 0
            flops = model_flops(self._shape, self._setup, tokens=tokens, labelled=labelled, length=length)
            found["mfu"] = round(flops / seconds / self._peak, 5)
        return found

    def _counts(self, step: int, logs: dict[str, float]) -> tuple[float, float, float]:
        """Tokens, supervised tokens, and tokens of a sequence as attention sees it."""
        units = self._order.of_step(step - 1)
        tokens, supervised = float(self._examples.tokens[units].sum()), float(self._examples.labelled[units].sum())
        rows = getattr(self._examples, "rows", None)
        if isinstance(rows, ShardRows):
            return tokens - padding(rows.take(units)), supervised, rows.length
        if self._generated:
            supervised = self._generated * logs.get("completions/mean_length", 0.0)
            return tokens + supervised, supervised, (tokens + supervised) / self._generated
        return tokens, supervised, tokens / len(units) / self._method.sequences


def mean_utilisation(records: list[dict[str, float]]) -> dict[str, float]:
    """``mfu`` over all steps, by their time; nothing where no step has one."""
    told = [(record["mfu"], record["seconds"]) for record in records if "mfu" in record]
    return {"mfu": sum(mfu * seconds for mfu, seconds in told) / sum(s for _, s in told)} if told else {}


def open_meter(spec: TrainSpec, examples: Examples, base: Path) -> Meter:
    """A meter for the model in ``base``.

    Utilisation is of the catalogue's bf16 rate that the spec names, times the processes; without one (CPU) of what a product
    of two matrices reaches here, on the threads of one process.
    """
    shape: ModelShape | None
    try:
        shape = ModelShape.from_config(json.loads((base / "config.json").read_text()))
        model_flops(shape, setup_of(spec), tokens=1, labelled=1, length=1)
    except PlanRefused:
        shape = None
    peak = spec.peak_tflops * 1e12 if spec.peak_tflops else matrix_rate(torch.device("cpu"), torch.float32)
    return Meter(spec, examples, shape, peak * spec.processes)


def setup_of(spec: TrainSpec) -> Setup:
    """What the planner's formulas need of a spec."""
    return Setup(
        parameterisation=spec.parameterisation,
        method=spec.method,
        lora=spec.lora,
        frozen_layers=spec.training.frozen_layers,
        modules=spec.lora.target_modules,
    )


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOPs per second of a product of two square matrices, the best of ``repeats``; draws no random number."""
    side = _SIDE[device.type]
    left = torch.full((side, side), 0.5, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        product = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
        del product
    return 2 * side**3 / best


def padding(rows: Rows) -> int:
    """Tokens of ``rows`` [B, L] that only fill them up: a last document of one repeated token, without loss."""
    last = (rows.position_ids == 0).cumsum(1)
    last = last == last[:, -1:]
    filled = ((rows.input_ids == rows.input_ids[:, -1:]) & (rows.targets == IGNORED)) | ~last
    return int(last[filled.all(1)].sum())


def peak_memory() -> int:
    """Bytes that a card, or a machine, of just that size would have needed: on a GPU the allocator's peak and what lies outside
    it (context, NCCL's buffers), which the planner counts too; without one the process's largest resident size.
    """
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return int(torch.cuda.max_memory_allocated() + total - free - torch.cuda.memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
