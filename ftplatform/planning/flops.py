"""Floating-point operations of a training, in closed form: what durations are planned with and utilisation is told by."""

from __future__ import annotations

from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape


def token_flops(
    shape: ModelShape, setup: Setup, length: float, *, checkpointing: bool = False, labelled: float = 1.0
) -> float:
    """FLOPs to train one token in sequences of ``length``, adapters left out.

    6 per active weight (Kaplan et al. 2020): 2 forward, 2 for gradients of activations, 2 for those of weights, which frozen
    weights skip; and 12 x blocks x length x query width for attention (Chowdhery et al. 2022, appendix B: causality is not
    discounted). Checkpointing adds a forward pass. The output layer counts for the share ``labelled`` of the tokens.
    """
    per_weight = (6 if setup.full else 4) + (2 if checkpointing else 0)
    attention = (16 if checkpointing else 12) * shape.layers * length * shape.query
    return per_weight * (shape.active - (1 - labelled) * shape.vocabulary * shape.hidden) + attention


def model_flops(shape: ModelShape, setup: Setup, *, tokens: float, labelled: float, length: float) -> float:
    """FLOPs that the mathematics of training on ``tokens`` needs, which is what model FLOPs utilisation counts.

    What an implementation adds does not count (Chowdhery et al. 2022, appendix B): activations computed a second time,
    padding, logits where nothing is learned, weights turned back from 4 bits. Under an adapter a base weight counts 4 and
    not 6, because its gradient is needed by nobody; the adapter's own matrices count 6. Frozen blocks count 4; that the
    lowest of them need no backward pass at all is not discounted. Generating answers and the forward passes of teachers
    and reference models are not counted, so with them the utilisation is a lower bound.

    ``labelled``: tokens the output layer sees (0 for a reward model, which has none); ``length``: tokens of a sequence.
    """
    flops = tokens * token_flops(shape, setup, length, labelled=labelled / tokens)
    if setup.full:
        return flops - 2 * tokens * len(set(setup.frozen_layers)) * shape.block
    return flops + 6 * tokens * (trained_parameters(setup, shape) if setup.parameterisation == "lora" else 0)
