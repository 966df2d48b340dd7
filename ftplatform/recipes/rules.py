"""What a recipe's fields ask of each other: combinations that mean nothing, or that cannot be trained, each with its reason.

``compatible`` is the one table of method x parameterisation x quantization; ``docs/recipes.md`` shows it printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftplatform.core.ids import BaseKey
from ftplatform.core.methods import find_method
from ftplatform.core.recipe import Recipe
from ftplatform.core.strategies import strategy_allows
from ftplatform.recipes.modules import module_problems

VIRTUAL = ("prefix", "prompt")
"""Parameterisations that train positions in front of every row and no layer."""
_SAME_LORA = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
"""PEFT's field -> the recipe's, of what has to be as it was for a LoRA to be trained on."""


def compatible(
    method: str, parameterisation: str, quantization: str = "none", qat: str = "none", weights: str = "fp32"
) -> str | None:
    """Why ``method`` cannot be trained so; None when it can."""
    full = parameterisation == "full"
    if not find_method(method).answers and (parameterisation not in ("full", "lora") or quantization != "none"):
        return (
            f"{method} trains a head beside the weights, which PEFT keeps for LoRA on a base that is not quantized: "
            "use lora or full, and quantization none"
        )
    if not find_method(method).answers and (qat != "none" or weights != "fp32"):
        return f"{method} scores text and is not served quantized: use qat none and weights fp32"
    if full and quantization != "none":
        return f"{quantization} weights cannot be trained: use parameterisation lora, or quantization none"
    if qat != "none" and quantization != "none":
        return f"weights held in {quantization} are quantized already: use qat none, or quantization none"
    if qat != "none" and parameterisation not in ("full", "lora"):
        return f"{parameterisation} does not change the weights that qat prepares for rounding: use full or lora"
    if weights == "bf16" and not full:
        return (
            "an adapter's own weights are fp32, and precision says what its base is held in: use parameterisation full"
        )
    return None


def contradictions(recipe: Recipe) -> dict[str, str]:
    """Field -> why its value means nothing beside the others; empty for a sound recipe."""
    return {**_unfit(recipe), **_lora(recipe), **_training(recipe), **_start(recipe)}


def _unfit(recipe: Recipe) -> dict[str, str]:
    training = recipe.training
    parts = {"quantization": training.quantization, "qat": training.qat, "weights": training.weights}
    if why := compatible(recipe.method, recipe.parameterisation):
        return {"parameterisation": why}
    for name, value in parts.items():
        if why := compatible(recipe.method, recipe.parameterisation, **{name: value}):
            return {f"training.{name}": why}
    why = compatible(recipe.method, recipe.parameterisation, **parts)
    return {"training.qat": why} if why else {}


def _lora(recipe: Recipe) -> dict[str, str]:
    lora, training = recipe.lora, recipe.training
    adapter_only = {
        "lora.exclude_modules": lora.exclude_modules,
        "lora.layers_to_transform": lora.layers_to_transform,
        "lora.use_rslora": lora.use_rslora,
        "lora.use_dora": lora.use_dora,
        "lora.init_lora_weights": lora.init_lora_weights != "default",
    }
    found = {
        name: f"says nothing with parameterisation {recipe.parameterisation}: leave it out, or use lora"
        for name, given in adapter_only.items()
        if given and recipe.parameterisation != "lora"
    }
    if lora.init_lora_weights == "pissa":
        if training.quantization != "none":
            # PEFT takes the residual of the weights as loaded, and quantized ones cannot hold it.
            found["lora.init_lora_weights"] = "pissa needs weights that are not quantized: use quantization none"
        elif training.qat != "none":
            found["lora.init_lora_weights"] = (
                "pissa trains on a residual, whose rounding is not the base's: use qat none"
            )
        elif recipe.method == "reward":
            found["lora.init_lora_weights"] = "pissa is not kept for a reward model: use default or gaussian"
        elif lora.use_dora:
            found["lora.init_lora_weights"] = "pissa with use_dora cannot be kept as plain LoRA: use one of them"
    if lora.use_dora and training.qat != "none":
        found["lora.use_dora"] = "DoRA takes its magnitudes from weights that are not rounded: use qat none"
    if both := sorted(set(lora.exclude_modules) & set(lora.target_modules)):
        found["lora.exclude_modules"] = f"{', '.join(both)} stand in target_modules too: take them out of one"
    if recipe.parameterisation == "lora":
        found |= module_problems(lora)
    return found | _blocks("lora.layers_to_transform", lora.layers_to_transform)


def _training(recipe: Recipe) -> dict[str, str]:
    training, found = recipe.training, {}
    if recipe.parameterisation != "full" and (training.frozen_layers or training.frozen_embeddings):
        found["training.frozen_layers"] = (
            "an adapter leaves all weights of the base as they are: lora.layers_to_transform says where adapters stand"
        )
    if recipe.parameterisation == "full" and training.weights == "bf16":
        if training.precision == "fp32":
            found["training.weights"] = "bf16 weights compute in bf16: use precision bf16, or weights fp32"
        elif training.optimizer == "adamw":
            found["training.optimizer"] = (
                "adamw keeps its states in the weights' type, and bf16 states stand still: with weights bf16 use adamw_8bit, "
                "paged_adamw_8bit or paged_adamw_32bit"
            )
    if recipe.parameterisation == "prefix" and training.gradient_checkpointing:
        found["training.gradient_checkpointing"] = (
            "a prefix lies in the key-value cache, which transformers drops with activation checkpointing: use false, or prompt"
        )
    if recipe.hardware.strategy != "auto":
        refused = strategy_allows(
            recipe.method, recipe.parameterisation, training.quantization, recipe.hardware.strategy, training.optimizer
        )
        found |= {"hardware.strategy": refused} if refused else {}
    return found | _blocks("training.frozen_layers", training.frozen_layers)


def _blocks(name: str, blocks: tuple[int, ...]) -> dict[str, str]:
    if any(block < 0 for block in blocks) or len(set(blocks)) < len(blocks):
        return {name: f"found {list(blocks)}: accepted are different numbers from 0"}
    return {}


def _start(recipe: Recipe) -> dict[str, str]:
    start = recipe.init_from
    if start is None:
        return {}
    if isinstance(start, str) and start != "champion":
        if BaseKey.parse(start).slug != recipe.base:
            return {
                "init_from": f"{start} is no revision of {recipe.base}, which `base` names: accepted is {recipe.base}@..."
            }
        return {}
    if recipe.method == "reward":
        return {"init_from": "a reward model has another head than a model that answers: leave it out"}
    if recipe.lora.init_lora_weights != "default":
        return {"init_from": f"{recipe.lora.init_lora_weights} draws new weights: use init_lora_weights default"}
    return {}


def continues(recipe: Recipe, found: Mapping[str, Any] | None) -> str | None:
    """Why training cannot start from a version; None when it can.

    ``found`` is the version's ``adapter_config.json``, None for full weights.
    """
    wanted = recipe.parameterisation
    kind = "full" if found is None else {"PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}.get(
        str(found["peft_type"]), str(found["peft_type"]).lower()
    )  # fmt: skip
    if kind == "lora" and wanted in VIRTUAL:
        return "DoRA cannot lie below virtual tokens: use plain LoRA" if found and found.get("use_dora") else None
    if kind != wanted:
        return f"it was trained with {kind} and the recipe says {wanted}: accepted are the same, and lora below prefix or prompt"
    if found is None:
        return None
    if kind in VIRTUAL and found["num_virtual_tokens"] != recipe.training.virtual_tokens:
        return f"it has {found['num_virtual_tokens']} virtual tokens, the recipe {recipe.training.virtual_tokens}"
    if kind != "lora":
        return None
    lora = recipe.lora
    differ = [
        f"{ours} {found.get(theirs)} where the recipe says {getattr(lora, ours)}"
        for theirs, ours in _SAME_LORA.items()
        if (found.get(theirs) or 0) != getattr(lora, ours)
    ]
    for name in ("target_modules", "exclude_modules", "layers_to_transform"):
        theirs, ours = sorted(found.get(name) or ()), sorted(getattr(lora, name))
        if theirs != ours:
            differ.append(f"{name} {theirs} where the recipe says {ours}")
    return f"it has {', '.join(differ)}" if differ else None
