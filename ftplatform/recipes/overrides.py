"""Some fields of a recipe set otherwise for one job or one trial: dotted field -> value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.recipes.fields import nearest
from ftplatform.recipes.resolve import OWN, group

NEVER = (*OWN, "search", "suites")
"""What a recipe is, how it is searched and how it is judged: never set otherwise for one job."""


def read_overrides(pairs: list[str]) -> dict[str, Any]:
    """``["lora.rank=32"]`` -> ``{"lora.rank": 32}``; values are YAML.

    Raises:
        InvalidConfig: not of the form key=value.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidConfig(f"--set {pair}: the value is not YAML: {error}") from error
        if not sign or not name:
            raise InvalidConfig(f"--set {pair}: accepted is key=value, for example lora.rank=32")
    return found


def overridden(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with ``values`` in place; name and number stay, because it is the same recipe, run otherwise.

    Raises:
        InvalidConfig: fields that do not exist or may not be set, or values that make no recipe, all of them listed.
    """
    if wrong := [f"  {name}: {why}" for name in values if (why := refused_field(name))]:
        raise InvalidConfig(f"recipe {recipe.key} cannot be run with these values:\n" + "\n".join(wrong))
    body = recipe.model_dump(mode="json")
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = body
        for part in groups:
            # A group that the recipe leaves out (``mix``) begins with its defaults.
            inner[part] = inner.get(part) or {}
            inner = inner[part]
            if not isinstance(inner, dict):
                raise InvalidConfig(f"{name}: {part} was set to the value {inner!r} already; set one or the other")
        inner[last] = value
    return parse_recipe(body, f"recipe {recipe.key} with {', '.join(f'{k}={v}' for k, v in values.items())}")


def refused_field(name: str) -> str:
    """Why a dotted name cannot be set; empty when it can."""
    if name.split(".")[0] in NEVER:
        return f"may not be set for one job; make a new version of the recipe ({', '.join(NEVER)} belong to it)"
    return "" if find_field(name) else f"unknown field{nearest(name)}"


def find_field(name: str) -> FieldInfo | None:
    """The recipe's field of a dotted name, or the table that the name's last part is a key of (``options.x``)."""
    model: Any = Recipe
    parts = name.split(".")
    for place, part in enumerate(parts, 1):
        field: FieldInfo | None = model.model_fields.get(part)
        left = len(parts) - place
        if field is None or not left:
            return field
        model = group(field.annotation)
        if model is None:
            table = getattr(field.annotation, "__origin__", None) is dict
            return field if table and left == 1 else None
    return None
