"""Ways to run a setup: GPU type and count, strategy, micro-batch, checkpointing; each with memory, duration and price, or why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ftplatform.core.methods import find_method
from ftplatform.core.plan import MemoryEstimate
from ftplatform.core.recipe import Strategy
from ftplatform.planning.calibration import Envelope
from ftplatform.planning.hardware import Hardware, HardwareCatalogue
from ftplatform.planning.memory import Layout, estimate_memory, host_gb
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import hours

COUNTS = (1, 2, 4, 8, 16, 32)
SPOT_DELAY = 1.15
"""Longest duration on interruptible machines: waiting for the next one and the steps since the last checkpoint."""

Measured = Callable[[Setup, int, str], Envelope | None]
"""(setup, length, gpu) -> what finished jobs of this base model measured."""


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be trained; ``tokens`` are positions over all epochs, ``batch`` packed sequences per optimizer step."""

    shape: ModelShape
    tokens: float
    length: int
    batch: int
    labelled: float = 1.0


@dataclass(frozen=True, slots=True)
class Option:
    setup: Setup
    gpu: str
    nodes: int
    layout: Layout
    memory: MemoryEstimate
    available_gb: float
    hours: tuple[float, float]
    price: tuple[float, float]
    spot: bool
    why_not: str = ""
    """Empty for an option that fits."""

    @property
    def name(self) -> str:
        return f"{self.setup.words}, {self.layout.gpus} x {self.gpu}, {self.layout.strategy}"

    @property
    def middle(self) -> float:
        """Of the price interval."""
        return (self.price[0] + self.price[1]) / 2


def strategies_for(setup: Setup, gpus: int) -> tuple[Strategy, ...]:
    """Strategies worth trying, simplest first. ZeRO-3 shards as FSDP2 does, and is there for recipes that name it."""
    if gpus == 1:
        return ("single", "offload") if setup.full and setup.optimizer == "adamw" else ("single",)
    return ("ddp", "zero2", "fsdp2", "offload") if setup.full else ("ddp", "fsdp2")


def unsupported(setup: Setup, strategy: Strategy) -> str:
    """Why the strategy cannot hold the setup; empty when it can."""
    sharded = strategy in ("fsdp2", "zero2", "zero3", "offload")
    if sharded and setup.optimizer != "adamw":
        return f"8-bit and paged optimizers keep their states whole, and {strategy} needs to cut them"
    if sharded and setup.quantization != "none":
        return f"quantized weights are not cut into shards, so {strategy} cannot divide them"
    if sharded and setup.parameterisation in ("prefix", "prompt"):
        return f"{setup.parameterisation} tuning trains too little for {strategy} to divide"
    return ""


def options(
    work: Work,
    setup: Setup,
    catalogue: HardwareCatalogue,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    strategy: Strategy | None = None,
    spot: bool = False,
    measured: Measured | None = None,
) -> Iterator[Option]:
    """Every way to run ``setup``, those that do not fit included.

    Raises:
        NotFound: ``gpu`` is not in the catalogue.
        PlanRefused: LoRA targets the model does not have.
    """
    names = [gpu] if gpu else [name for name, entry in catalogue.hardware.items() if entry.is_gpu]
    for name in names:
        device = catalogue.get(name)
        share = device.kubernetes.max_per_pod
        for count in (gpus,) if gpus else COUNTS:
            nodes = math.ceil(count / share)
            joined = nodes == 1 or (count % share == 0 and device.network_gb_s > 0)
            if not joined or work.batch % count:
                continue
            for way in (strategy,) if strategy else strategies_for(setup, count):
                if not unsupported(setup, way):
                    yield _option(work, setup, name, device, count, nodes, way, spot, measured)


def _option(
    work: Work,
    setup: Setup,
    gpu: str,
    device: Hardware,
    gpus: int,
    nodes: int,
    strategy: Strategy,
    spot: bool,
    measured: Measured | None,
) -> Option:
    found = measured(setup, work.length, gpu) if measured else None
    correction = found.memory_ratio[1] if found else 1.0
    available = device.memory_gb
    # A pair is two sequences in one forward pass.
    sequences = find_method(setup.method).sequences
    per_gpu = work.batch // gpus

    def at(micro: int, checkpointing: bool) -> tuple[Layout, MemoryEstimate]:
        layout = Layout(
            micro_batch=micro,
            length=work.length,
            accumulation=per_gpu // micro,
            gpus=gpus,
            strategy=strategy,
            checkpointing=checkpointing,
            labelled=work.labelled,
        )
        doubled = replace(layout, micro_batch=micro * sequences)
        return layout, estimate_memory(work.shape, setup, doubled)

    layout, memory = at(1, True)
    divisors = [micro for micro in range(per_gpu, 0, -1) if per_gpu % micro == 0]
    for checkpointing in (False, True):
        fitting = next(
            (pair for micro in divisors if (pair := at(micro, checkpointing))[1].total * correction <= available), None
        )
        if fitting:
            layout, memory = fitting
            break
    duration = hours(work.shape, setup, layout, work.tokens * sequences, device, nodes=nodes, measured=found)
    interruptible = spot and device.price.spot is not None
    if interruptible:
        duration = (duration[0], round(duration[1] * SPOT_DELAY, 6))
    rate = device.hourly(gpus=gpus, spot=interruptible)
    need = memory.total * correction
    host, has = host_gb(work.shape, setup, layout), device.kubernetes.memory_gb * gpus
    why = ""
    if need > available:
        why = (
            f"needs {need:.1f} GB a GPU with micro-batch 1 and activation checkpointing, and {gpu} has {available:g} GB"
            + _states(setup, memory)
        )
    elif host > has:
        why = f"keeps {host:.0f} GB of optimizer states in host memory, and {gpus} x {gpu} come with {has:.0f} GB"
    return Option(
        setup=setup,
        gpu=gpu,
        nodes=nodes,
        layout=layout,
        memory=memory,
        available_gb=available,
        hours=duration,
        price=(round(duration[0] * rate, 6), round(duration[1] * rate, 6)),
        spot=interruptible,
        why_not=why,
    )


def _states(setup: Setup, memory: MemoryEstimate) -> str:
    if not setup.full:
        return f" (the base weights alone are {memory.weights:.1f} GB)"
    states = memory.weights + memory.gradients + memory.optimizer
    which = "AdamW in mixed precision" if (setup.optimizer, setup.weights) == ("adamw", "fp32") else setup.words
    what = (
        "weights, gradients and optimizer states"
        if memory.optimizer
        else "weights and gradients, with its states in the host"
    )
    return f": {which} takes {states:.1f} GB for {what}"
