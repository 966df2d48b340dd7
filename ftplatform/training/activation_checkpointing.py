"""Activations computed again in the backward pass (Chen et al. 2016, arXiv:1604.06174): memory for a third more time."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from ftplatform.core.errors import InvalidConfig


def checkpoint_activations(model: Any) -> None:
    """Make every block of ``model`` keep its input alone, and look at the live model that each does.

    Not re-entrant, so that a block inside a frozen base is recomputed with its adapter's gradients although its input
    carries none, and dropout is drawn again from the same random state.

    Raises:
        InvalidConfig: prefix tuning, whose prefix the recomputed blocks would leave out; or a block did not engage.
    """
    adapters = getattr(model, "peft_config", {}).values()
    if any(config.peft_type == "PREFIX_TUNING" for config in adapters):
        raise InvalidConfig(
            "activation checkpointing was asked for with prefix tuning, whose prefix lies in the cache that recomputed "
            "blocks do not read: set training.gradient_checkpointing to false, or choose lora, ia3 or prompt"
        )
    plain = model.get_base_model() if adapters else model
    plain.activation_checkpointing_enable({"use_reentrant": False})
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    engaged = sum(block.gradient_checkpointing for block in blocks)
    if not blocks or engaged != len(blocks):
        raise InvalidConfig(
            f"activation checkpointing was asked for and engaged on {engaged} of {len(blocks)} blocks of "
            f"{type(plain).__name__}"
        )
