"""Training memory in closed form, term by term, per GPU with replicated weights."""

from __future__ import annotations

from ftplatform.core.plan import MemoryEstimate
from ftplatform.planning.shapes import ModelShape

GB = 1e9
_HEADROOM = 0.05
"""Allocator fragmentation and library workspaces, as a share of the rest."""


def estimate_memory(
    shape: ModelShape,
    *,
    trainable: int,
    full: bool,
    bytes_per_value: int,
    micro_batch: int,
    length: int,
    context_gb: float,
) -> MemoryEstimate:
    """Peak gigabytes of one process.

    ``trainable`` counts the trained weights, ``bytes_per_value`` is 2 for bf16 and 4 for fp32, ``context_gb`` is what the
    device's runtime takes by itself. Sources: 16 bytes per trained weight for AdamW in mixed precision (Rajbhandari et al. 2020,
    ZeRO, section 3.1: 2+2 for half-precision weights and gradients, 12 for the fp32 copy and two moments; the same 16 in fp32);
    34 x length x batch x hidden half-precision bytes of activations per layer with fused attention (Korthikanti et al. 2022, eq. 2,
    without the attention-score term).
    """
    weights = shape.parameters * bytes_per_value
    if full:
        gradients = trainable * bytes_per_value
        optimizer = trainable * (16 - 2 * bytes_per_value)
    else:
        weights += trainable * 4
        gradients = trainable * 4
        optimizer = trainable * 8
    activations = 34 * length * micro_batch * shape.hidden * shape.layers * bytes_per_value / 2
    # Logits are taken at labelled positions only; all of them are labelled in the worst case, in fp32, with their gradient.
    logits = 2 * length * micro_batch * shape.vocabulary * 4
    known = (weights + gradients + optimizer + activations + logits) / GB
    other = context_gb + _HEADROOM * known
    return MemoryEstimate(
        weights=round(weights / GB, 4),
        gradients=round(gradients / GB, 4),
        optimizer=round(optimizer / GB, 4),
        activations=round(activations / GB, 4),
        logits=round(logits / GB, 4),
        other=round(other, 4),
        total=round(known + other, 4),
    )
