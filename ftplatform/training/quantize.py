"""Quantization-aware training: weights learn under the rounding that they will be served with.

Every linear layer of the blocks computes with rounded weights (int4, symmetric, a scale per group of inputs) and, for
``int8-int4``, rounded inputs (int8, asymmetric, a scale per token), while gradients pass as if nothing were rounded (Jacob et
al. 2017, arXiv:1712.05877; Bengio et al. 2013, arXiv:1308.3432). Embeddings and the output layer stay as they are. Saved
are the weights before rounding, which any engine loads, and beside them ``quantization.json``: what they were trained for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torchao.quantization import (  # type: ignore[import-untyped]
    Int8DynamicActivationIntxWeightConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    quantize_,
)
from torchao.quantization.qat import FakeQuantizedLinear, QATConfig  # type: ignore[import-untyped]

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import TrainingConfig

RECORD = "quantization.json"


def scheme(training: TrainingConfig) -> Any:
    """torchao's configuration of the quantization that ``training.qat`` prepares for."""
    group = PerGroup(training.qat_group_size)
    if training.qat == "int4":
        return IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=group)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=group)


def _chosen(model: Any) -> dict[str, torch.nn.Linear]:
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def round_in_training(model: Any, training: TrainingConfig) -> None:
    """Make the linear layers of a model without adapters compute as if quantized, in place.

    Raises:
        InvalidConfig: a layer whose inputs are no multiple of the group, or one where it did not engage.
    """
    layers, size = _chosen(model), training.qat_group_size
    if odd := {name: layer.in_features for name, layer in layers.items() if layer.in_features % size}:
        name, inputs = next(iter(odd.items()))
        raise InvalidConfig(
            f"training.qat_group_size {size} does not divide the {inputs} inputs of {name} ({len(odd)} such layers): "
            "choose a divisor of all; a retry does not help"
        )
    quantize_(model, QATConfig(scheme(training), step="prepare"), filter_fn=lambda module, name: name in layers)
    check_rounding(model, training)


def check_rounding(model: Any, training: TrainingConfig) -> None:
    """Look at the live layers, also below adapters.

    Raises:
        InvalidConfig: a layer of the blocks that does not round as asked for.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = [module for module in base.modules() if isinstance(module, FakeQuantizedLinear)]
    plain = [
        name
        for name, module in base.named_modules()
        if type(module) is torch.nn.Linear and "lora_" not in name and module is not base.get_output_embeddings()
    ]
    for layer in found:
        weights, inputs = layer.weight_fake_quantizer, layer.activation_fake_quantizer
        sound = weights is not None and weights.config.group_size == training.qat_group_size
        if not sound or (inputs is not None) != (training.qat == "int8-int4"):
            plain.append(type(layer).__name__)
    if plain or not found:
        raise InvalidConfig(
            f"qat {training.qat} did not engage on {type(base).__name__}: {len(found)} layers round, "
            f"{len(plain)} do not, first {plain[:1]}"
        )


def quantized(model: Any, training: TrainingConfig) -> Any:
    """``model`` with the weights of its blocks' layers quantized for good, in place: what an engine would compute."""
    layers = _chosen(model)
    quantize_(model, scheme(training), filter_fn=lambda module, name: name in layers)
    return model


def record(training: TrainingConfig, folder: Path) -> None:
    """Write ``quantization.json`` beside saved weights: ``{"scheme", "group_size", "modules"}``."""
    value = {"scheme": training.qat, "group_size": training.qat_group_size, "modules": "linear layers of the blocks"}
    (folder / RECORD).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
