"""From a recipe and a dataset version to a plan: every default filled in, priced, and refused when it cannot work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ftplatform.core.checks import CheckResult
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.methods import find_method
from ftplatform.core.plan import PinnedChampion, PinnedSuite, Placement, Plan
from ftplatform.core.recipe import Recipe
from ftplatform.planning.hardware import Hardware, HardwareCatalogue
from ftplatform.planning.memory import Layout, estimate_memory
from ftplatform.planning.options import Measured
from ftplatform.planning.servable import Engine, Servable, servable
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import FILL, OVERHEAD_SECONDS, UTILISATION, hours, span
from ftplatform.recipes.rules import contradictions, not_trained


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
    recipe: Recipe,
    inputs: Inputs,
    hardware: HardwareCatalogue,
    *,
    default_gpu: str,
    local: bool,
    engine: Engine = "embedded",
    measured: Measured | None = None,
) -> tuple[Plan, list[CheckResult]]:
    """Resolve the recipe and return the plan with its checks.

    ``default_gpu`` is the catalogue entry that ``gpu: auto`` means; where payloads run on this machine (``local``) it is the only
    one there is, and the recipe's wish is recorded and not followed. ``engine`` is the one that has to serve the result. ``measured``
    gives what finished jobs of this base model needed, in place of the catalogue's rates.

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
    setup = replace(Setup.from_recipe(recipe), precision=training.precision)
    trainable = trained_parameters(setup, shape)
    reasons.append(f"{trainable:,} of {shape.parameters:,} weights are trained ({setup.name}).")

    known = measured(setup, training.max_length, gpu) if measured else None
    correction = known.memory_ratio[1] if known else 1.0
    per_gpu = max(1, training.batch_size // gpus)
    pairs = find_method(recipe.method).sequences
    micro, memory = per_gpu, None
    for micro in (m for m in range(per_gpu, 0, -1) if per_gpu % m == 0):
        layout = Layout(
            micro_batch=micro * pairs, length=training.max_length, gpus=gpus, strategy="single" if gpus == 1 else "ddp"
        )
        memory = estimate_memory(shape, setup, layout, gpu=device.is_gpu)
        if memory.total * correction <= device.memory_gb:
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
    positions = steps * training.batch_size * training.max_length * pairs
    duration = (
        hours(shape, setup, layout, positions, device, measured=known)
        if device.is_gpu or known
        else _cpu_hours(setup, shape, positions, device)
    )
    rate = device.hourly(gpus=gpus, spot=recipe.hardware.spot and device.price.spot is not None)
    price = (round(duration[0] * rate, 6), round(duration[1] * rate, 6))
    reasons.append(
        f"{steps} steps over about {tokens:,} tokens: {span(duration)} at {rate:g} {hardware.currency} per hour."
    )

    served = servable(setup, engine)
    plan = Plan(
        dataset=inputs.curated.dataset,
        recipe=str(recipe.key),
        recipe_digest=recipe.content_digest,
        curated=inputs.curated,
        base=inputs.base,
        champion=inputs.champion,
        suites=inputs.suites,
        method=recipe.method,
        method_options=recipe.method_options,
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
        hours=duration,
        price=price,
        currency=hardware.currency,
        servable=served.ok,
        reasons=tuple(reasons),
    )
    return plan, _checks(recipe, plan, device, shape, per_gpu * gpus == training.batch_size, served)


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


def _cpu_hours(setup: Setup, shape: ModelShape, tokens: int, device: Hardware) -> tuple[float, float]:
    # Attention is a few percent here, and the interval a factor of three; nothing is read from afar.
    peak = device.bf16_tflops * 1e12
    flops = (6 if setup.full else 4) * shape.parameters * tokens
    low = flops / (peak * UTILISATION[1]) + OVERHEAD_SECONDS[0]
    high = flops / (peak * UTILISATION[0]) + OVERHEAD_SECONDS[1]
    return round(low / 3600, 6), round(high / 3600, 6)


def _checks(
    recipe: Recipe, plan: Plan, device: Hardware, shape: ModelShape, batch_divides: bool, served: Servable
) -> list[CheckResult]:
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
    problems += [f"{field}: {why}" for field, why in (contradictions(recipe) | not_trained(recipe)).items()]
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
        CheckResult("servable", plan.servable, message=served.why),
    ]


CHECKS = {
    "consistent": "the recipe's fields fit each other, the base model and the number of GPUs",
    "fits_memory": "the closed-form estimate fits the GPU",
    "within_budget": "the upper price estimate is within the recipe's budget",
    "servable": "the serving engine accepts what would be trained",
}
