"""Kernels that a GPU training takes where they are there: one-kernel AdamW, and Liger's norms and feed-forward layers.

TF32 for what is left in 32 bits is transformers' own setting (on from Ampere on).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils import is_liger_kernel_available

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.core.strategies import DEEPSPEED
from ftplatform.training.adapters import OPTIMIZERS

_LIGER = {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""What is left out: the losses, because logits are taken at labelled positions only, and rotary positions, which Liger changes
for every model of the process."""


def optimizer_name(spec: TrainSpec) -> str:
    """``optim`` for transformers: AdamW as one kernel over all weights on a GPU. On a CPU it gains 3 ms of 650."""
    name = OPTIMIZERS[spec.training.optimizer]
    fused = name == "adamw_torch" and torch.cuda.is_available() and spec.strategy not in DEEPSPEED
    return "adamw_torch_fused" if fused else name


class OptimizerCheck(TrainerCallback):
    """Looks at the live optimizer before the first step."""

    def __init__(self, spec: TrainSpec) -> None:
        self._fused = optimizer_name(spec) == "adamw_torch_fused"

    def on_train_begin(self, *args: Any, optimizer: Any = None, **rest: Any) -> None:
        """Raises InvalidConfig: the fused optimizer did not engage."""
        if self._fused and not all(group.get("fused") for group in optimizer.param_groups):
            raise InvalidConfig(f"the fused AdamW did not engage: the optimizer is {optimizer!r}"[:500])


def engage_liger(model: Any) -> bool:
    """Put Liger's kernels into ``model`` (PEFT's wrapping allowed) where it is installed, knows the family and a GPU is there;
    whether it did.

    Only this model: Liger also exchanges the classes of the model's family, and a model loaded later on a CPU, the one that
    proves the result, could not compute with them. Not run on a GPU yet.

    Raises:
        InvalidConfig: it did not engage.
    """
    if not torch.cuda.is_available() or not is_liger_kernel_available():
        return False
    known = import_module("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
    if model.config.model_type not in known:
        return False
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    family = vars(sys.modules[type(bare).__module__])
    before = dict(family)
    try:
        apply_liger_kernel(model, _LIGER)
    finally:
        family.update(before)
    kernels = [module for module in bare.modules() if "forward" in vars(module) and _liger(module.forward)]
    if not kernels:
        raise InvalidConfig(f"Liger kernels did not engage on {type(bare).__name__}")
    return True


def _liger(forward: Any) -> bool:
    return str(getattr(forward, "__module__", "")).startswith("liger_kernel")
