"""Ways to run a setup: GPU type and count, strategy, micro-batch, checkpointing; each with memory, duration and price, or why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ftplatform.core.plan import MemoryEstimate
from ftplatform.core.recipe import Strategy
from ftplatform.core.strategies import strategy_allows
from ftplatform.planning.calibration import Envelope
from ftplatform.planning.hardware import Hardware, HardwareCatalogue
from ftplatform.planning.host import host_need
from ftplatform.planning.memory import Layout, estimate_memory
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import hours

COUNTS = (1, 2, 4, 8, 16, 32)
SPOT_DELAY = 1.15
"""Longest duration on interruptible machines: waiting for the next one and the steps since the last checkpoint."""

Measured = Callable[[Setup, int, str], Envelope | None]
"""(setup, length, gpu) -> what finished jobs of this base model measured."""
Limit = Literal["", "placement", "memory", "budget", "deadline"]


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be trained; ``tokens`` are positions over all epochs of one sequence per unit, ``batch`` units per optimizer step."""

    shape: ModelShape
    tokens: float
    length: int
    batch: int
    labelled: float = 1.0


@dataclass(frozen=True, slots=True)
class Pins:
    """What was asked for and is not the planner's to choose."""

    among: tuple[str, ...] = ()
    """Entries of the hardware catalogue; empty: every GPU."""
    gpus: int | None = None
    most_nodes: int | None = None
    strategy: Strategy | None = None
    checkpointing: bool | None = None
    spot: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    setup: Setup
    gpu: str
    nodes: int
    layout: Layout
    memory: MemoryEstimate
    correction: float
    """Measured peak over estimate of finished jobs, the worst of them; 1 where nothing was measured."""
    available_gb: float
    hours: tuple[float, float]
    price: tuple[float, float]
    spot: bool
    limit: Limit = ""
    """What it breaks."""
    why_not: str = ""
    """The same as a sentence; empty for an option that works."""
    excess: float = 1.0
    """What it needs of what it breaks, over what there is; 1 and less for what works."""

    @property
    def name(self) -> str:
        return f"{self.setup.words}, {self.layout.gpus} x {self.gpu}, {self.layout.strategy}"

    @property
    def middle(self) -> float:
        """Of the price interval."""
        return (self.price[0] + self.price[1]) / 2

    @property
    def needed_gb(self) -> float:
        """Of one GPU, by the estimate and what was measured."""
        return self.memory.total * self.correction


def strategies_for(setup: Setup, gpus: int) -> tuple[Strategy, ...]:
    """Strategies worth trying, simplest first. ZeRO-3 shards as FSDP2 does, and is there for recipes that name it."""
    if gpus == 1:
        return ("single", "offload") if setup.full and setup.optimizer == "adamw" else ("single",)
    return ("ddp", "zero2", "fsdp2", "offload") if setup.full else ("ddp", "fsdp2")


def unsupported(setup: Setup, strategy: Strategy, gpus: int) -> str:
    """Why the strategy cannot hold the setup on that many GPUs; empty when it can."""
    if strategy == "single" and gpus > 1:
        return f"single is one process, and {gpus} GPUs need one each"
    if strategy in ("ddp", "fsdp2", "zero2", "zero3") and gpus == 1:
        return f"{strategy} divides work between GPUs, and there is one"
    return strategy_allows(setup.method, setup.parameterisation, setup.quantization, strategy, setup.optimizer)


def options(
    work: Work, setup: Setup, catalogue: HardwareCatalogue, pins: Pins, measured: Measured | None = None
) -> Iterator[Option]:
    """Every way to run ``setup``, those that do not work included. What is pinned is always among them, with why not.

    Raises:
        NotFound: a pinned entry is not in the catalogue.
        PlanRefused: LoRA targets the model does not have.
    """
    for name in pins.among or [name for name, entry in catalogue.hardware.items() if entry.is_gpu]:
        device = catalogue.get(name)
        for gpus in (pins.gpus,) if pins.gpus else COUNTS:
            placed = _misplaced(work, device, name, gpus, pins.most_nodes)
            if placed and not pins.gpus:
                continue
            # Without a GPU the host's memory is the device's: nothing can be moved there.
            ways = tuple(way for way in strategies_for(setup, gpus) if device.is_gpu or way != "offload")
            for way in (pins.strategy,) if pins.strategy else ways:
                why = placed or unsupported(setup, way, gpus)
                if not why or (pins.gpus and pins.strategy) or (placed and way == ways[0]):
                    option = _option(work, setup, name, device, gpus, way, pins, measured)
                    yield replace(option, limit="placement", why_not=why) if why else option


def _misplaced(work: Work, device: Hardware, gpu: str, gpus: int, most_nodes: int | None) -> str:
    share = device.kubernetes.max_per_pod
    nodes = math.ceil(gpus / share)
    if work.batch % gpus:
        return f"a batch of {work.batch} is not a multiple of {gpus} GPUs"
    if nodes == 1:
        return ""
    stands = f"{gpus} x {gpu} do not stand in one node, which has at most {share}"
    if most_nodes is not None and nodes > most_nodes:
        return f"{stands}, and a job here has at most {most_nodes} node(s)"
    if device.network_gb_s == 0:
        return f"{stands}, and the hardware catalogue has no network between nodes for it"
    return f"{stands}: accepted are whole nodes" if gpus % share else ""


def _option(
    work: Work,
    setup: Setup,
    gpu: str,
    device: Hardware,
    gpus: int,
    strategy: Strategy,
    pins: Pins,
    measured: Measured | None,
) -> Option:
    found = measured(setup, work.length, gpu) if measured else None
    correction = found.memory_ratio[1] if found else 1.0
    available, nodes = device.memory_gb, math.ceil(gpus / device.kubernetes.max_per_pod)
    per_gpu = max(1, work.batch // gpus)

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
        # A pair is two sequences in one forward pass, a prompt its group's answers.
        sequences = replace(layout, micro_batch=micro * setup.sequences)
        return layout, estimate_memory(work.shape, setup, sequences, gpu=device.is_gpu)

    tried = (False, True) if pins.checkpointing is None else (pins.checkpointing,)
    if setup.parameterisation == "prefix":
        # A prefix lies in the key-value cache, which transformers drops with activation checkpointing.
        tried = (False,)
    layout, memory = at(1, tried[-1])
    divisors = [micro for micro in range(per_gpu, 0, -1) if per_gpu % micro == 0]
    for checkpointing in tried:
        fitting = next(
            (pair for micro in divisors if (pair := at(micro, checkpointing))[1].total * correction <= available), None
        )
        if fitting:
            layout, memory = fitting
            break
    duration = hours(work.shape, setup, layout, work.tokens * setup.sequences, device, nodes=nodes, measured=found)
    interruptible = pins.spot and device.price.spot is not None
    if interruptible:
        duration = (duration[0], round(duration[1] * SPOT_DELAY, 6))
    rate = device.hourly(gpus=gpus, spot=interruptible)
    need = memory.total * correction
    # Without a GPU the device's memory is the host's.
    beside = device.kubernetes.memory_gb if device.is_gpu else device.memory_gb
    host, has = host_need(work.shape, setup, layout, nodes), beside * math.ceil(gpus / nodes)
    why = ""
    if need > available:
        how = "and activation checkpointing" if layout.checkpointing else "without activation checkpointing"
        why = f"needs {need:.1f} GB a GPU with micro-batch 1 {how}, and {gpu} has {available:g} GB"
        why += _most(work.shape, setup, memory)
    elif host.gb > has:
        node = f"{math.ceil(gpus / nodes)} x {gpu}" + (" of a node" if nodes > 1 else "")
        why = f"needs {host.gb:.0f} GB of host memory {host.what}, and {node} come with {has:.0f} GB"
    return Option(
        setup=setup,
        gpu=gpu,
        nodes=nodes,
        layout=layout,
        memory=memory,
        correction=correction,
        available_gb=available,
        hours=duration,
        price=(round(duration[0] * rate, 6), round(duration[1] * rate, 6)),
        spot=interruptible,
        limit="memory" if why else "",
        why_not=why,
        excess=max(need / available, host.gb / has),
    )


def _most(shape: ModelShape, setup: Setup, memory: MemoryEstimate) -> str:
    """What takes most of the memory; of full weights all that AdamW keeps for them counts as one."""
    states = memory.weights + memory.gradients + memory.optimizer
    terms = {
        "activations": (memory.activations, "activations"),
        "logits": (memory.logits, f"logits over {shape.vocabulary:,} tokens"),
        "other": (memory.other, "gathered or rounded copies and buffers"),
    }
    if setup.full:
        terms["weights"] = (states, "weights, gradients and optimizer states")
    else:
        terms["weights"] = (memory.weights, "the base weights")
    largest = max(terms, key=lambda name: terms[name][0])
    size, what = terms[largest]
    if largest != "weights" or not setup.full:
        return f" (most of it is {what}, {size:.1f} GB)"
    which = "AdamW in mixed precision" if (setup.optimizer, setup.weights) == ("adamw", "fp32") else setup.words
    if not memory.optimizer:
        what = (
            "weights, with gradients and states in the host"
            if not memory.gradients
            else "weights and gradients, with its states in the host"
        )
    return f": {which} takes {states:.1f} GB for {what}"
