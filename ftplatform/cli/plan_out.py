"""What the planner chose, as a recipe file whose plan is the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ftplatform.cli.plan_request import merged
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import RecipeKey
from ftplatform.planning.choose import Choice
from ftplatform.recipes.check import check
from ftplatform.recipes.resolve import Parent


def write_recipe(path: Path, choice: Choice, given: dict[str, Any], budget: float | None) -> None:
    """Write the chosen plan to ``path``, with its reasons as comments; ``given`` is what ``--set`` named, its base among it.

    Raises:
        InvalidConfig: no base was named, what was chosen is no sound recipe, or the file cannot be written.
    """
    if "base" not in given:
        raise InvalidConfig("--out writes a recipe, and a recipe names its base model: add --set base=SLUG")
    body = _recipe(path, choice, given, budget)
    if wrong := check(body, _no_parent):
        lines = "\n".join(f"  {problem.field}: {problem.message}" for problem in wrong)
        raise InvalidConfig(f"what was chosen cannot be written to {path} as a recipe:\n{lines}")
    head = "".join(f"# {reason}\n" for reason in choice.reasons)
    try:
        path.write_text(head + yaml.safe_dump(body, sort_keys=False, width=120), encoding="utf-8")
    except OSError as error:
        raise InvalidConfig(f"--out {path} cannot be written: {error}") from error


def _recipe(path: Path, choice: Choice, given: dict[str, Any], budget: float | None) -> dict[str, Any]:
    option, setup, layout = choice.option, choice.option.setup, choice.option.layout
    slug = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "planned"
    chosen: dict[str, Any] = {
        "name": slug,
        "version": 1,
        "description": f"{setup.words}, {layout.gpus} x {option.gpu}: chosen by ft plan",
        "base": given["base"],
        "method": setup.method,
        "parameterisation": setup.parameterisation,
        "training": {
            "learning_rate": choice.learning_rate,
            **({"max_steps": choice.max_steps} if choice.max_steps else {"epochs": float(choice.epochs)}),
            "batch_size": layout.micro_batch * layout.accumulation * layout.gpus,
            "max_length": choice.length,
            "quantization": setup.quantization,
            "optimizer": setup.optimizer,
            "weights": setup.weights,
            "gradient_checkpointing": layout.checkpointing,
        },
        "hardware": {
            "gpu": option.gpu,
            "gpus": layout.gpus,
            "strategy": layout.strategy,
            "spot": option.spot,
            **({"max_price": budget} if budget is not None else {}),
        },
    }
    if setup.parameterisation == "lora" and setup.lora is not None:
        chosen["lora"] = {"rank": setup.lora.rank, "alpha": setup.lora.alpha}
    return chosen | merged(given, chosen)


def _no_parent(key: RecipeKey) -> Parent:
    raise NotFound(f"what was planned has no parent; {key} was asked for")
