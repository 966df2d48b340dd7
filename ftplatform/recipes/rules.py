"""What a recipe's fields ask of each other: combinations that mean nothing, or that nothing here trains yet."""

from __future__ import annotations

from ftplatform.core.recipe import Recipe

NOT_YET: dict[str, tuple[str, ...]] = {
    "parameterisation": ("prefix", "prompt", "ia3"),
}
"""Field -> values that a recipe may name and plan for, and that the training payload does not do yet."""


def contradictions(recipe: Recipe) -> dict[str, str]:
    """Field -> why its value means nothing beside the others; empty for a sound recipe."""
    lora, training, full = recipe.lora, recipe.training, recipe.parameterisation == "full"
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
    if full and training.quantization != "none":
        found["training.quantization"] = (
            f"{training.quantization} weights cannot be trained: use parameterisation lora, or quantization none"
        )
    if not full and (training.frozen_layers or training.frozen_embeddings):
        found["training.frozen_layers"] = (
            "an adapter leaves all weights of the base as they are: lora.layers_to_transform says where adapters stand"
        )
    if lora.init_lora_weights == "pissa":
        if training.quantization != "none":
            # PEFT takes the residual of the weights as loaded, and quantized ones cannot hold it.
            found["lora.init_lora_weights"] = "pissa needs weights that are not quantized: use quantization none"
        elif lora.use_dora:
            found["lora.init_lora_weights"] = "pissa with use_dora cannot be kept as plain LoRA: use one of them"
    if both := sorted(set(lora.exclude_modules) & set(lora.target_modules)):
        found["lora.exclude_modules"] = f"{', '.join(both)} stand in target_modules too: take them out of one"
    for name, blocks in (
        ("lora.layers_to_transform", lora.layers_to_transform),
        ("training.frozen_layers", training.frozen_layers),
    ):
        if any(block < 0 for block in blocks) or len(set(blocks)) < len(blocks):
            found[name] = f"found {list(blocks)}: accepted are different numbers from 0"
    return found


def not_trained(recipe: Recipe) -> dict[str, str]:
    """Field -> that its value can be planned and not be trained yet."""
    found = {}
    for name, values in NOT_YET.items():
        value, default = recipe, type(recipe)
        for part in name.split("."):
            parent, value = value, getattr(value, part)
            default = type(parent).model_fields[part].default
        if value in values or ("any" in values and value != default):
            found[name] = f"{value} is known to the planner, and the training does not do it yet"
    return found
