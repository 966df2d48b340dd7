"""From the words of ``ft plan`` to what is asked of the planner."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.planning.request import FULL, Request
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes.overrides import read_overrides

AUTO = "auto"
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


def read_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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
    """What is asked of the planner: all that a recipe says, or with ``auto`` only what ``--set`` names."""
    written = given if name == AUTO else merged(find(name).model_dump(mode="json", exclude_unset=True), given)
    stand_in = {"name": AUTO, "version": 1, "base": AUTO, "training": {"learning_rate": 1e-4}}
    recipe = parse_recipe(merged(stand_in, written))
    setup = Setup.from_recipe(recipe)
    if "target_modules" not in written.get("lora", {}):
        setup = replace(setup, modules=None)
    setups: tuple[Setup, ...] = (setup,)
    if name != AUTO:
        training, hardware = recipe.training.model_dump(), recipe.hardware.model_dump()
    else:
        training, hardware = written.get("training", {}), written.get("hardware", {})
        if set(given) & set(_TRAINED) == {"parameterisation"} and setup.full and not set(training) & set(_KEPT):
            setups = FULL
        elif not (set(given) & set(_TRAINED) or set(training) & set(_KEPT)):
            setups = ()
    length = length or training.get("max_length") or min(2048, shape.max_length)
    steps, batch = training.get("max_steps"), training.get("batch_size")
    pinned: dict[str, Any] = {
        field: None if hardware.get(field) == AUTO else hardware.get(field) for field in ("gpu", "gpus", "strategy")
    }
    return Request(
        shape=shape,
        tokens=tokens / (1 - recipe.replay),
        length=length,
        epochs=training.get("epochs"),
        positions=steps * batch * length if steps and batch else None,
        batch=batch,
        setups=setups,
        checkpointing=training.get("gradient_checkpointing"),
        spot=hardware.get("spot"),
        **pinned,
        **(wish if wish["budget"] is not None else wish | {"budget": recipe.hardware.max_price}),
    )
