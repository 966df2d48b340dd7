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
from ftplatform.planning import explain
from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.job_checks import CHECKS, check_plan
from ftplatform.planning.options import Measured
from ftplatform.planning.refusals import nearest_servable, refusal, too_long
from ftplatform.planning.request import Request
from ftplatform.planning.search import search
from ftplatform.planning.servable import Engine, servable
from ftplatform.planning.setup import Setup, resolved_lora
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import FILL
from ftplatform.recipes.rules import VIRTUAL

__all__ = ["CHECKS", "Inputs", "Site", "make_plan", "steps_for"]


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
    teacher: BaseModel | None = None
    """Of a distillation."""
    init: PinnedChampion | None = None
    """The version that training starts from."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where jobs of this deployment run."""

    gpus: tuple[str, ...]
    """Entries of the hardware catalogue that ``gpu: auto`` may choose from; empty: every GPU."""
    local: bool
    """One process on this machine: the recipe's wish for other hardware is recorded and not followed."""
    most_nodes: int | None = 1
    engine: Engine = "embedded"
    """The one that has to serve the result."""


def make_plan(
    recipe: Recipe, inputs: Inputs, hardware: HardwareCatalogue, site: Site, measured: Measured | None = None
) -> tuple[Plan, list[CheckResult]]:
    """Resolve the recipe and return the plan with its checks.

    What the recipe leaves open (GPU type and count, strategy, micro-batch, accumulation, activation checkpointing) is chosen as
    ``ft plan`` chooses: the cheapest that fits. ``measured`` gives what finished jobs of this base model needed, in place of the
    catalogue's rates. Where nothing works, the plan is the one that comes nearest and a check fails with what would.

    Raises:
        PlanRefused: a model or LoRA target that cannot be sized.
        NotFound: hardware that is not in the catalogue.
    """
    shape = ModelShape.from_config(inputs.base_config)
    training, info = recipe.training, find_method(recipe.method)
    reasons: list[str] = []
    request = _request(recipe, inputs, shape, site, reasons)
    no_gpu = bool(request.among) and not any(hardware.get(name).is_gpu for name in request.among)
    if no_gpu and training.precision == "bf16":
        training = training.model_copy(update={"precision": "fp32", "weights": "fp32"})
        reasons.append("fp32 instead of bf16: on a CPU bf16 saves no time.")
    teacher = inputs.teacher.parameters if inputs.teacher else 0
    setup = replace(Setup.from_recipe(recipe), precision=training.precision, weights=training.weights, teacher=teacher)
    if inputs.init:
        below = inputs.init.kind == "lora" and recipe.parameterisation in VIRTUAL
        reasons.append(
            f"Training starts from version {inputs.init.version} ({inputs.init.weights[:12]})"
            + (", which stays as it is below the virtual tokens where it is LoRA." if below else ".")
        )
    steps, positions = _amount(recipe, inputs)
    request = replace(request, setups=(setup,), positions=positions)

    found = search(request, hardware, measured)
    refused = refusal(found, hardware, measured) if found.best is None else ""
    option = found.nearest
    if option is None:
        option = search(replace(request, gpus=None, strategy=None), hardware, measured).nearest
    assert option is not None, "every entry of the catalogue can be asked for one GPU"
    layout, placed = option.layout, recipe.hardware
    reasons += [
        *explain.what_is_trained(setup, shape),
        explain.where_it_runs(option, request.pins, "which is what this machine has" if site.local else "as asked for"),
        explain.how_a_step_is_cut(option, found.work, info.unit, training.gradient_checkpointing),
        f"{steps} steps over about {inputs.train_tokens / (1 - recipe.replay):,.0f} tokens an epoch: "
        + explain.what_it_costs(option, found.work, hardware, measured),
    ]
    served = servable(setup, site.engine)
    reasons += explain.how_it_is_served(setup, site.engine) if served.ok else ()
    plan = Plan(
        dataset=inputs.curated.dataset,
        recipe=str(recipe.key),
        recipe_digest=recipe.content_digest,
        curated=inputs.curated,
        base=inputs.base,
        champion=inputs.champion,
        init=inputs.init,
        suites=inputs.suites,
        method=recipe.method,
        method_options=recipe.method_options,
        parameterisation=recipe.parameterisation,
        lora=resolved_lora(recipe, shape),
        training=training,
        mix=recipe.mix,
        replay=recipe.replay,
        micro_batch=layout.micro_batch,
        accumulation=layout.accumulation,
        strategy=layout.strategy,
        gradient_checkpointing=layout.checkpointing,
        steps=steps,
        train_tokens=inputs.train_tokens,
        placement=Placement(
            gpu=option.gpu,
            gpus=layout.gpus,
            nodes=option.nodes,
            spot=option.spot,
            priority=placed.priority,
            shared_memory_gb=placed.shared_memory_gb,
            image=recipe.image,
        ),
        memory_gb=option.memory,
        hours=option.hours,
        price=option.price,
        currency=hardware.currency,
        servable=served.ok,
        reasons=tuple(reasons),
        rejected=explain.rejected(found, hardware),
    )
    checks = check_plan(
        recipe,
        plan,
        option,
        hardware.get(option.gpu),
        shape,
        refused=refused,
        served=served,
        nearest_length="" if training.max_length <= shape.max_length else too_long(request, hardware, measured),
        nearest_served="" if served.ok else nearest_servable(replace(request, engine=site.engine), hardware, measured),
    )
    return plan, checks


def steps_for(units: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps: ``epochs`` over all units, at least one, or ``max_steps``."""
    return max_steps if max_steps is not None else max(1, math.ceil(epochs * units / batch_size))


def _request(recipe: Recipe, inputs: Inputs, shape: ModelShape, site: Site, reasons: list[str]) -> Request:
    wanted, training = recipe.hardware, recipe.training
    gpus = None if wanted.gpus == "auto" else wanted.gpus
    strategy = None if wanted.strategy == "auto" else wanted.strategy
    among = site.gpus if wanted.gpu == "auto" else (wanted.gpu,)
    if site.local:
        here = site.gpus[0]
        if wanted.gpu not in ("auto", here) or gpus not in (None, 1) or strategy not in (None, "single", "offload"):
            asked = f"{wanted.gpus} x {wanted.gpu}, strategy {wanted.strategy}"
            reasons.append(
                f"The recipe asks for {asked}; payloads of this deployment run on this machine ({here}), in one process."
            )
        among, gpus, strategy = (here,), 1, strategy if strategy == "offload" else None
    return Request(
        shape=shape,
        tokens=inputs.train_tokens,
        length=training.max_length,
        batch=training.batch_size,
        budget=wanted.max_price,
        among=among,
        gpus=gpus,
        most_nodes=site.most_nodes,
        strategy=strategy,
        checkpointing=training.gradient_checkpointing,
        spot=wanted.spot,
        engine=site.engine,
    )


def _amount(recipe: Recipe, inputs: Inputs) -> tuple[int, float]:
    """Optimizer steps, and positions of one sequence per unit over all of them: packed ones are full, others padded to the longest
    of their micro-batch.
    """
    training, info, rows = recipe.training, find_method(recipe.method), max(1, inputs.curated.rows["train"])
    units, length = rows, min(training.max_length, inputs.train_tokens / rows / info.sequences / FILL)
    if info.unit == "packed sequences":
        tokens = inputs.train_tokens / (1 - recipe.replay)
        units, length = math.ceil(tokens / (training.max_length * FILL)), training.max_length
    if info.generates:
        length += recipe.method_options["max_new_tokens"]
    steps = steps_for(units, training.batch_size, training.epochs, training.max_steps)
    return steps, steps * training.batch_size * length
