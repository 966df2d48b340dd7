"""From a recipe and a dataset version to a plan: every default filled in, priced, and refused when it cannot work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ftplatform.core.checks import CheckResult
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.plan import PinnedChampion, PinnedSuite, Placement, Plan
from ftplatform.core.recipe import Recipe
from ftplatform.planning.hardware import Hardware, HardwareCatalogue
from ftplatform.planning.memory import estimate_memory
from ftplatform.planning.shapes import ModelShape

FILL = 0.95
"""Share of a packed sequence that best-fit packing fills; 0.98 to 0.99 was measured, short datasets reach less."""
UTILISATION = (0.15, 0.45)
"""Model FLOPs utilisation, worst and best: published fine-tuning runs of dense models lie between; measured runs replace it later."""
OVERHEAD_SECONDS = (15.0, 90.0)
"""Start of the payload, loading and saving, evaluation's load: from a warm laptop to a cold node with its image present."""
CONTEXT_GB = {True: 1.5, False: 0.5}
"""What CUDA and its libraries, or the CPU build of torch, take by themselves."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a plan pins."""

    curated: CuratedDataset
    base: BaseModel
    base_config: dict[str, Any]
    """The base model's ``config.json``."""
    champion: PinnedChampion | None
    suites: tuple[PinnedSuite, ...]
    train_tokens: int


def make_plan(
    recipe: Recipe, inputs: Inputs, hardware: HardwareCatalogue, *, default_gpu: str, local: bool
) -> tuple[Plan, list[CheckResult]]:
    """Resolve the recipe and return the plan with its checks.

    ``default_gpu`` is the catalogue entry that ``gpu: auto`` means; where payloads run on this machine (``local``) it is the only
    one there is, and the recipe's wish is recorded and not followed.

    Raises:
        PlanRefused: a model or LoRA target that cannot be sized.
        NotFound: hardware that is not in the catalogue.
    """
    shape = ModelShape.from_config(inputs.base_config)
    reasons: list[str] = []
    gpu, gpus = _device(recipe, default_gpu, local, reasons)
    device = hardware.get(gpu)
    training = recipe.training
    if not device.is_gpu and training.precision == "bf16":
        training = training.model_copy(update={"precision": "fp32"})
        reasons.append("fp32 instead of bf16: on a CPU bf16 saves no time.")
    full = recipe.parameterisation == "full"
    trainable = shape.parameters if full else shape.lora_parameters(recipe.lora.rank, recipe.lora.target_modules)
    reasons.append(f"{trainable:,} of {shape.parameters:,} weights are trained ({recipe.parameterisation}).")

    per_gpu = max(1, training.batch_size // gpus)
    sizes = {
        "trainable": trainable,
        "full": full,
        "bytes_per_value": 4 if training.precision == "fp32" else 2,
        "length": training.max_length,
    }
    micro, memory = per_gpu, None
    for micro in (m for m in range(per_gpu, 0, -1) if per_gpu % m == 0):
        memory = estimate_memory(shape, micro_batch=micro, context_gb=CONTEXT_GB[device.is_gpu], **sizes)  # type: ignore[arg-type]
        if memory.total <= device.memory_gb:
            break
    assert memory is not None
    accumulation = per_gpu // micro
    reasons.append(
        f"Micro-batch {micro} x {accumulation} accumulation x {gpus} process(es) = {micro * accumulation * gpus} sequences of {training.max_length} "
        f"tokens per step, the largest micro-batch that fits {device.memory_gb:g} GB ({memory.total:.2f} GB estimated)."
    )

    tokens = int(inputs.train_tokens / (1 - recipe.replay))
    sequences = math.ceil(tokens / (training.max_length * FILL))
    steps = steps_for(sequences, training.batch_size, training.epochs, training.max_steps)
    hours = _hours(shape, full, steps * training.batch_size * training.max_length, device, gpus)
    rate = device.hourly(gpus=gpus, spot=recipe.hardware.spot and device.price.spot is not None)
    price = (round(hours[0] * rate, 6), round(hours[1] * rate, 6))
    reasons.append(
        f"{steps} steps over about {tokens:,} tokens: {_span(hours)} at {rate:g} {hardware.currency} per hour."
    )

    plan = Plan(
        dataset=inputs.curated.dataset,
        recipe=str(recipe.key),
        recipe_digest=recipe.content_digest,
        curated=inputs.curated,
        base=inputs.base,
        champion=inputs.champion,
        suites=inputs.suites,
        method=recipe.method,
        parameterisation=recipe.parameterisation,
        lora=recipe.lora,
        training=training,
        mix=recipe.mix,
        replay=recipe.replay,
        micro_batch=micro,
        accumulation=accumulation,
        steps=steps,
        train_tokens=inputs.train_tokens,
        placement=Placement(
            gpu=gpu,
            gpus=gpus,
            spot=recipe.hardware.spot,
            priority=recipe.hardware.priority,
            shared_memory_gb=recipe.hardware.shared_memory_gb,
            image=recipe.image,
        ),
        memory_gb=memory,
        hours=hours,
        price=price,
        currency=hardware.currency,
        servable=True,
        reasons=tuple(reasons),
    )
    return plan, _checks(recipe, plan, device, shape, per_gpu * gpus == training.batch_size)


def steps_for(sequences: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps: ``epochs`` over all packed sequences, at least one, or ``max_steps``."""
    return max_steps if max_steps is not None else max(1, math.ceil(epochs * sequences / batch_size))


def _device(recipe: Recipe, default_gpu: str, local: bool, reasons: list[str]) -> tuple[str, int]:
    wanted, gpus = recipe.hardware.gpu, recipe.hardware.gpus
    if not local:
        return (default_gpu if wanted == "auto" else wanted), gpus
    if wanted not in ("auto", default_gpu) or gpus > 1:
        reasons.append(
            f"The recipe asks for {gpus} x {wanted}; payloads of this deployment run on this machine ({default_gpu}), in one process."
        )
    return default_gpu, 1


def _hours(shape: ModelShape, full: bool, tokens: int, device: Hardware, gpus: int) -> tuple[float, float]:
    # 2 FLOPs per weight and token forward, 2 for the gradient of activations, 2 for that of weights, which LoRA's frozen ones skip.
    flops = (6 if full else 4) * shape.parameters * tokens
    peak = device.bf16_tflops * 1e12 * gpus
    low = flops / (peak * UTILISATION[1]) + OVERHEAD_SECONDS[0]
    high = flops / (peak * UTILISATION[0]) + OVERHEAD_SECONDS[1]
    return round(low / 3600, 6), round(high / 3600, 6)


def _span(hours: tuple[float, float]) -> str:
    if hours[1] < 1:
        return f"{hours[0] * 60:.1f} to {hours[1] * 60:.1f} minutes"
    return f"{hours[0]:.1f} to {hours[1]:.1f} hours"


def _checks(recipe: Recipe, plan: Plan, device: Hardware, shape: ModelShape, batch_divides: bool) -> list[CheckResult]:
    budget = recipe.hardware.max_price
    placement, spot_sold, on_node = plan.placement, device.price.spot is not None, device.kubernetes.max_per_pod
    conditions = {
        f"batch_size {plan.training.batch_size} is not a multiple of {placement.gpus} GPUs": batch_divides,
        f"max_length {plan.training.max_length} is above the base model's {shape.max_length}": plan.training.max_length
        <= shape.max_length,
        f"{placement.gpus} x {placement.gpu} do not stand in one node, which has at most {on_node}": placement.gpus
        <= on_node,
        f"{placement.gpu} has no spot price in the hardware catalogue": spot_sold or not placement.spot,
        f"replay {recipe.replay:g} needs replay rows, and {plan.base.key} has none": recipe.replay == 0
        or plan.base.replay is not None,
    }
    problems = [sentence for sentence, holds in conditions.items() if not holds]
    return [
        CheckResult(
            "consistent", not problems, message="; ".join(problems) or "the recipe's numbers fit the base model"
        ),
        CheckResult(
            "fits_memory",
            plan.memory_gb.total <= device.memory_gb,
            message=f"{plan.memory_gb.total:.2f} GB needed with micro-batch {plan.micro_batch}, {plan.placement.gpu} has {device.memory_gb:g} GB",
            numbers={"needed_gb": plan.memory_gb.total, "available_gb": device.memory_gb},
        ),
        CheckResult(
            "within_budget",
            budget is None or plan.price[1] <= budget,
            message=f"at most {plan.price[1]:g} {plan.currency}"
            + (f", budget {budget:g}" if budget is not None else ", no budget set"),
            numbers={"price_low": plan.price[0], "price_high": plan.price[1]},
        ),
        CheckResult(
            "servable", plan.servable, message="the embedded engine serves LoRA on linear layers and full weights"
        ),
    ]


CHECKS = {
    "consistent": "batch, length and replay fit the base model and the number of GPUs",
    "fits_memory": "the closed-form estimate fits the GPU",
    "within_budget": "the upper price estimate is within the recipe's budget",
    "servable": "the serving engine accepts what would be trained",
}
