"""From the words of ``ft plan`` to what is asked of the planner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.planning.request import FULL, Request
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes.overrides import read_overrides
from ftplatform.recipes.rules import contradictions

AUTO = "auto"
MOST_TOKENS = 1e15
"""Above all text there is: a figure beyond it is a slip of the keyboard."""
_TRAINED = ("parameterisation", "lora", "method")
_KEPT = ("quantization", "optimizer", "precision", "weights", "qat", "virtual_tokens")


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """``lora.rank=32`` -> {"lora": {"rank": 32}}.

    Raises:
        InvalidConfig: not of that form, or a group that was given a value of its own.
    """
    found: dict[str, Any] = {}
    for name, value in read_overrides(pairs).items():
        *groups, last = name.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise InvalidConfig(f"--set {name}: {group} was set to the value {inner!r} already")
        inner[last] = value
    return found


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return below | {
        name: merged(below[name], value) if isinstance(value, dict) and isinstance(below.get(name), dict) else value
        for name, value in above.items()
    }


def above_zero(option: str, value: float | None, most: float = math.inf) -> None:
    """Raises InvalidConfig: ``value`` is no finite number above 0, or above ``most``; None is fine."""
    if value is not None and not (0 < value < math.inf and value <= most):
        limit = "" if math.isinf(most) else f" and at most {most:g}"
        raise InvalidConfig(f"{option} {value:g}: accepted is a number above 0{limit}")


def read_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path} cannot be read as a Hugging Face config.json: {error}") from error
    if not isinstance(value, dict):
        raise InvalidConfig(
            f"{path} is not a Hugging Face config.json: found a {type(value).__name__}, accepted is an object"
        )
    return value


def request_of(
    shape: ModelShape,
    name: str,
    given: dict[str, Any],
    tokens: float,
    length: int | None,
    wish: dict[str, Any],
    find: Callable[[str], Recipe],
) -> Request:
    """What is asked of the planner: all that a recipe says, or with ``auto`` only what ``--set`` names.

    Raises:
        InvalidConfig: values that make no recipe, or that contradict each other.
    """
    written = given if name == AUTO else merged(find(name).model_dump(mode="json", exclude_unset=True), given)
    stand_in = {"name": AUTO, "version": 1, "base": AUTO, "training": {"learning_rate": 1e-4}}
    recipe = parse_recipe(merged(stand_in, written))
    if wrong := contradictions(recipe):
        lines = "\n".join(f"  {field}: {why}" for field, why in wrong.items())
        raise InvalidConfig(f"{name} cannot be planned with these values:\n{lines}")
    setup = Setup.from_recipe(recipe)
    setups: tuple[Setup, ...] = (setup,)
    training, hardware = recipe.training.model_dump(), recipe.hardware.model_dump()
    if name == AUTO:
        # As parsed and not as written: YAML has numbers in quotes.
        training = {field: training[field] for field in written.get("training", {})}
        hardware = {field: hardware[field] for field in written.get("hardware", {})}
        if set(given) & set(_TRAINED) == {"parameterisation"} and setup.full and not set(training) & set(_KEPT):
            setups = FULL
        elif not (set(given) & set(_TRAINED) or set(training) & set(_KEPT)):
            setups = ()
    pinned: dict[str, Any] = {
        field: None if hardware.get(field) == AUTO else hardware.get(field) for field in ("gpu", "gpus", "strategy")
    }
    return Request(
        shape=shape,
        tokens=tokens / (1 - recipe.replay),
        length=length or training.get("max_length") or min(2048, shape.max_length),
        epochs=training.get("epochs"),
        max_steps=training.get("max_steps"),
        learning_rate=training.get("learning_rate"),
        batch=training.get("batch_size"),
        setups=setups,
        checkpointing=training.get("gradient_checkpointing"),
        spot=hardware.get("spot"),
        **pinned,
        **(wish if wish["budget"] is not None else wish | {"budget": recipe.hardware.max_price}),
    )
