"""Duration and price as intervals: FLOPs and bytes over the catalogue's rates, or what finished jobs measured."""

from __future__ import annotations

from ftplatform.core.methods import find_method
from ftplatform.core.strategies import DEEPSPEED
from ftplatform.planning.calibration import Envelope
from ftplatform.planning.flops import token_flops
from ftplatform.planning.hardware import Hardware
from ftplatform.planning.memory import Layout
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape

FILL = 0.95
"""Share of a packed sequence that best-fit packing fills; 0.98 to 0.99 was measured, short datasets reach less."""
UTILISATION = (0.15, 0.45)
"""Model FLOPs utilisation, worst and best: published fine-tuning runs of dense models lie between; measured runs replace it."""
OVERHEAD_SECONDS = (15.0, 90.0)
"""Start of the payload, loading and saving, evaluation's load: from a warm laptop to a cold node with its image present."""
LOAD_GB_S = (2.0, 0.2)
"""Reading weights, best and worst: local disk and object store."""
QUANTIZED_SLOWDOWN = {"none": (1.0, 1.0), "nf4": (1.1, 1.5), "int8": (1.3, 2.5)}
"""Times as long, best and worst: weights are turned back into bf16 before each product; Dettmers et al. report 1.3 to 1.7 for nf4
at small batches, and LLM.int8 splits each product in two.
"""
OFFLOAD_GB_S = 20.0
"""Host memory that a CPU's AdamW reads and writes per second and GPU."""


def flops_per_token(shape: ModelShape, setup: Setup, length: int, *, checkpointing: bool) -> float:
    """FLOPs to train one token (``planning.flops``), with what a method computes before its first step."""
    # A reference is one forward pass over every row.
    passes = 4 / 3 if find_method(setup.method).reference else 1.0
    return passes * token_flops(shape, setup, length, checkpointing=checkpointing) + 2 * setup.teacher


def hours(
    shape: ModelShape,
    setup: Setup,
    layout: Layout,
    tokens: float,
    device: Hardware,
    *,
    nodes: int = 1,
    measured: Envelope | None = None,
) -> tuple[float, float]:
    """Best and worst duration of training on ``tokens`` positions (padding included).

    Computation and communication overlap entirely in the best case, not at all in the worst. ``measured`` gives tokens per second
    of one GPU, and replaces the catalogue's rates.
    """
    n = layout.gpus
    slow = QUANTIZED_SLOWDOWN[setup.quantization]
    if measured is not None:
        # Adding GPUs to what one did loses up to a fifth, as the ring of a node saturates.
        low = tokens / (measured.tokens_per_second[1] * n)
        high = tokens / (measured.tokens_per_second[0] * n) * (1.25 if n > 1 else 1.0)
    else:
        work = flops_per_token(shape, setup, layout.length, checkpointing=layout.checkpointing) * tokens
        peak = device.bf16_tflops * 1e12 * n
        steps = tokens / setup.sequences / (layout.micro_batch * layout.length * layout.accumulation * n)
        sent = _seconds_per_step(shape, setup, layout, device, nodes) * steps
        low = max(work / (peak * UTILISATION[1]) * slow[0], sent)
        high = work / (peak * UTILISATION[0]) * slow[1] + sent
    read = shape.parameters * 2 / 1e9
    low += OVERHEAD_SECONDS[0] + read / LOAD_GB_S[0]
    high += OVERHEAD_SECONDS[1] + read / LOAD_GB_S[1]
    return round(low / 3600, 6), round(high / 3600, 6)


def _seconds_per_step(shape: ModelShape, setup: Setup, layout: Layout, device: Hardware, nodes: int) -> float:
    """Communication of one optimizer step, as a ring: each GPU sends and receives the payload about twice for an all-reduce and once
    for an all-gather or reduce-scatter (Rajbhandari et al. 2020, section 7).
    """
    n, strategy = layout.gpus, layout.strategy
    one_way = device.interconnect.gb_s / 2
    if nodes > 1:
        one_way = min(one_way, device.network_gb_s / max(1, n // nodes))
    # Without a link the option is refused for where it would stand, and its time says nothing.
    if n == 1 or not one_way:
        seconds = 0.0
    else:
        trained = trained_parameters(setup, shape)
        # DeepSpeed sums gradients over the processes in fp32, and gathers weights in bf16 (training/distributed/zero_config.py).
        gradient = 4 if strategy in DEEPSPEED else 2
        if strategy in ("ddp", "zero2"):
            payload = (gradient + 2) * trained
        else:
            # Weights are gathered for each pass of each micro-batch; gradients are scattered alike.
            payload = layout.accumulation * (2 * 2 * shape.parameters + gradient * trained)
        seconds = payload * (n - 1) / n / (one_way * 1e9)
    if strategy == "offload":
        seconds += trained_parameters(setup, shape) / n * (4 + 4 + 8) * 2 / (OFFLOAD_GB_S * 1e9)
    return seconds


def span(interval: tuple[float, float]) -> str:
    """Hours for a sentence, in minutes below one."""
    if interval[1] < 1:
        return f"{interval[0] * 60:.1f} to {interval[1] * 60:.1f} minutes"
    return f"{interval[0]:.1f} to {interval[1]:.1f} hours"
