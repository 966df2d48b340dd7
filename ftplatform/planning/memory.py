"""Training memory in closed form, term by term, for one GPU of a job."""

from __future__ import annotations

from dataclasses import dataclass

from ftplatform.core.plan import MemoryEstimate
from ftplatform.core.recipe import Strategy
from ftplatform.core.strategies import DEEPSPEED
from ftplatform.planning.activations import activation_bytes, logits_bytes, takes_mask
from ftplatform.planning.setup import QUANTIZED_BYTES, STATE_BYTES, Setup, reference_copies, trained_parameters
from ftplatform.planning.shapes import ModelShape

GB = 1e9
HEADROOM = 0.05
"""Allocator fragmentation and library workspaces, as a share of the rest."""
CONTEXT_GB = {True: 1.5, False: 0.5}
"""What CUDA and its libraries, or the CPU build of torch, take by themselves."""
MASTER_BYTES = 4
"""An fp32 copy per trained weight, which DeepSpeed keeps beside bf16 weights."""

STRATEGIES: dict[Strategy, str] = {
    "single": "one process",
    "ddp": "a copy of everything on every GPU (DDP)",
    "zero2": "gradients and optimizer states sharded (DeepSpeed ZeRO-2)",
    "fsdp2": "weights, gradients and optimizer states sharded (FSDP2)",
    "zero3": "weights, gradients and optimizer states sharded (DeepSpeed ZeRO-3)",
    "offload": "sharded, optimizer states in host memory (DeepSpeed ZeRO-3 with offload)",
}
_BUCKETS_GB = 0.8
"""What DeepSpeed collects gradients in and sends them from: 100 million numbers each (``BUCKET`` of
``training/distributed/zero_config.py``), in fp32.
"""
_GATHERED = 2
"""Blocks whose weights are whole at a time: the one that computes and the one that is fetched meanwhile."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a job lies on its GPUs; ``micro_batch`` counts sequences of ``length`` tokens on one GPU."""

    micro_batch: int
    length: int
    accumulation: int = 1
    gpus: int = 1
    strategy: Strategy = "single"
    checkpointing: bool = False
    masked: bool | None = None
    """Whether attention takes a mask; None as the payload does (``takes_mask``)."""
    labelled: float = 1.0
    """Share of positions that carry loss; 1 is the worst case."""


def estimate_memory(shape: ModelShape, setup: Setup, layout: Layout, *, gpu: bool = True) -> MemoryEstimate:
    """Gigabytes of one process; ``gpu`` False for a CPU.

    Terms, per weight (Rajbhandari et al. 2020, ZeRO, sections 3.1 and 5): full weights in fp32 under bf16 autocast 4 + 4 + 8 = 16 bytes
    with AdamW, as ZeRO's 2 + 2 + 12; bf16 weights and gradients 2 + 2; an adapter 16 bytes beside a frozen base of 2 (bf16), 0.516
    (nf4, double quantization) or 1 (int8). DeepSpeed holds weights in bf16 and adds gradients up in fp32; with offload those are in
    host memory with the states. A sharded term is divided by the number of GPUs. ``other`` holds bf16 copies of fp32 weights,
    gathered and dequantized blocks, communication buckets, the runtime and ``HEADROOM``.

    ``total`` is the sum: gradients counted throughout, as when micro-batches accumulate. See ``expected_peak``.

    Raises:
        PlanRefused: LoRA targets the model does not have.
    """
    trained, n, strategy = trained_parameters(setup, shape), layout.gpus, layout.strategy
    sharded = strategy in ("fsdp2", "zero3", "offload")
    deepspeed = strategy in DEEPSPEED
    value = 4 if setup.precision == "fp32" else 2
    kept = _full_bytes(setup, deepspeed) if setup.full else 4
    weights = float(shape.parameters * kept) if setup.full else _frozen_bytes(shape, setup) + trained * 4
    weights += (reference_copies(setup) * shape.parameters + setup.teacher) * value
    gradients = float(trained * (4 if deepspeed else kept))
    states = trained * (STATE_BYTES[setup.optimizer] + (MASTER_BYTES if kept == 2 and deepspeed else 0))
    working = _working_bytes(shape, setup, layout, trained, sharded)
    weights /= n if sharded else 1
    gradients /= n if sharded or strategy == "zero2" else 1
    states /= n if sharded or strategy == "zero2" else 1
    if strategy == "offload":
        # ZeRO-3 makes its gradient buffer on the optimizer's device (DeepSpeed 0.19, stage3.py, grad_partitions_flat_buffer).
        gradients = states = 0.0

    tokens = layout.micro_batch * layout.length
    masked = takes_mask(shape, setup) if layout.masked is None else layout.masked
    activations = activation_bytes(
        shape, setup, tokens, layout.length, checkpointing=layout.checkpointing, masked=masked
    )
    logits = logits_bytes(shape, setup, max(1, round(tokens * layout.labelled)), whole_layer=not sharded)
    terms = [round(term / GB, 4) for term in (weights, gradients, states, activations, logits)]
    other = round(CONTEXT_GB[gpu] + working / GB + HEADROOM * (sum(terms) + working / GB), 4)
    return MemoryEstimate(
        weights=terms[0],
        gradients=terms[1],
        optimizer=terms[2],
        activations=terms[3],
        logits=terms[4],
        other=other,
        total=round(sum(terms) + other, 4),
    )


def expected_peak(memory: MemoryEstimate, accumulation: int) -> float:
    """Gigabytes that a measurement shows. Without accumulation gradients grow while activations are freed, so that the smaller
    of the two takes no room of its own.
    """
    if accumulation > 1:
        return memory.total
    return round(memory.total - min(memory.gradients, memory.activations + memory.logits), 4)


def _full_bytes(setup: Setup, deepspeed: bool) -> int:
    bf16 = setup.precision == "bf16" and (setup.weights == "bf16" or deepspeed)
    return 2 if bf16 else 4


def _frozen_bytes(shape: ModelShape, setup: Setup) -> float:
    value = 4 if setup.precision == "fp32" else 2
    if setup.quantization == "none":
        return shape.parameters * value
    matrices = shape.quantizable
    return matrices * QUANTIZED_BYTES[setup.quantization] + (shape.parameters - matrices) * value


def _working_bytes(shape: ModelShape, setup: Setup, layout: Layout, trained: int, sharded: bool) -> float:
    largest = max(linear.parameters for linear in shape.linears)
    cast = setup.full and setup.precision == "bf16" and setup.weights == "fp32"
    working = 0.0
    if sharded:
        per_block = shape.block * (2 if setup.quantization == "none" else QUANTIZED_BYTES[setup.quantization])
        working += _GATHERED * per_block + 2 * shape.embeddings
        # A block's whole gradients before they are reduced to shards.
        working += _GATHERED * 2 * shape.block if setup.full else 0
    elif cast and layout.strategy != "zero2":
        # Autocast keeps a bf16 copy of every fp32 weight it multiplies by, from forward to backward pass.
        working += 2 * (shape.block_matrices + shape.vocabulary * shape.hidden)
    if layout.strategy == "ddp":
        working += trained * (2 if setup.full and setup.weights == "bf16" else 4)
    if layout.strategy in DEEPSPEED:
        working += _BUCKETS_GB * GB
    if setup.quantization != "none":
        working += 2 * 2 * largest
    if setup.qat != "none":
        # Every matrix twice more in its own type and the scales of groups of 32, kept from forward to backward pass: autograd saved
        # 8.25 bytes per fp32 weight (torchao 0.18, counted by saved_tensors_hooks).
        value = 4 if setup.precision == "fp32" or (setup.full and setup.weights == "fp32") else 2
        working += (2 * value + 0.25) * shape.quantizable
    return working
