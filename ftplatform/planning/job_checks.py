"""What stops a job before money is spent: a mistake of its author, said with the nearest plan that works."""

from __future__ import annotations

from ftplatform.core.checks import CheckResult
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import Recipe
from ftplatform.planning.hardware import Hardware
from ftplatform.planning.options import Option
from ftplatform.planning.servable import Servable
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes.rules import contradictions

CHECKS = {
    "consistent": "the recipe's fields fit each other, the base model, the GPUs and the strategy",
    "fits_memory": "the estimate, corrected by what finished jobs measured, fits the GPU",
    "within_budget": "the upper price estimate is within the recipe's budget",
    "servable": "the serving engine accepts what would be trained",
}


def check_plan(
    recipe: Recipe,
    plan: Plan,
    option: Option,
    device: Hardware,
    shape: ModelShape,
    *,
    refused: str,
    served: Servable,
    nearest_length: str,
    nearest_served: str,
) -> list[CheckResult]:
    """``refused`` says why no option works and what would; ``option`` is then the one that comes nearest. ``nearest_length`` and
    ``nearest_served`` end the sentences about a length and an adapter that are not accepted.
    """
    budget, placement = recipe.hardware.max_price, plan.placement
    conditions = {
        f"max_length {plan.training.max_length} is above the base model's {shape.max_length}{nearest_length}": plan.training.max_length
        <= shape.max_length,
        f"{placement.gpu} has no spot price in the hardware catalogue": device.price.spot is not None
        or not (placement.spot or (recipe.hardware.spot and recipe.hardware.gpu == placement.gpu)),
        f"replay {recipe.replay:g} needs replay rows, and {plan.base.key} has none": recipe.replay == 0
        or plan.base.replay is not None,
    }
    problems = [sentence for sentence, holds in conditions.items() if not holds]
    problems += [f"{field}: {why}" for field, why in contradictions(recipe).items()]
    # An option that works by itself is here only where what was asked for names no place at all.
    broken = option.limit or "placement" if refused else ""
    if broken == "placement":
        problems.append(refused)
    needed = f"{option.needed_gb:.2f} GB needed with micro-batch {plan.micro_batch}, {placement.gpu} has {option.available_gb:g} GB"
    cost = f"at most {plan.price[1]:g} {plan.currency}"
    cost += f", budget {budget:g}" if budget is not None else ", no budget set"
    return [
        CheckResult(
            "consistent", not problems, message="; ".join(problems) or "the recipe's numbers fit the base model"
        ),
        CheckResult(
            "fits_memory",
            broken != "memory",
            message=refused if broken == "memory" else needed,
            numbers={"needed_gb": round(option.needed_gb, 4), "available_gb": option.available_gb},
        ),
        CheckResult(
            "within_budget",
            budget is None or plan.price[1] <= budget,
            message=refused if broken == "budget" else cost,
            numbers={"price_low": plan.price[0], "price_high": plan.price[1]},
        ),
        CheckResult("servable", plan.servable, message=served.why + nearest_served),
    ]
