"""From a recipe's search space to Optuna's distributions and back."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import Choices, Range
from ftplatform.recipes.search_space import is_whole

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(recipe: Recipe) -> dict[str, BaseDistribution]:
    """Dotted field -> distribution. Choices are distributed as JSON texts, because Optuna takes no lists."""
    assert recipe.search is not None
    return {name: _distribution(name, values) for name, values in recipe.search.space.items()}


def encode(recipe: Recipe, parameters: dict[str, Any]) -> dict[str, Any]:
    """A trial's values as Optuna has them."""
    space = _space(recipe)
    return {name: _text(value) if isinstance(space[name], Choices) else value for name, value in parameters.items()}


def decode(recipe: Recipe, drawn: dict[str, Any]) -> dict[str, Any]:
    """The recipe's values of what Optuna drew, in the order of the space; drawn numbers to four digits, for people to read and write."""
    space = _space(recipe)
    found = {}
    for name, values in space.items():
        value = drawn[name]
        if isinstance(values, Choices):
            value = json.loads(value)
        elif values.step is None and not isinstance(value, int):
            value = min(max(float(f"{value:.4g}"), values.low), values.high)
        found[name] = value
    return found


def own_values(recipe: Recipe) -> dict[str, Any] | None:
    """What the recipe itself says for the searched fields; None where one of them lies outside the space."""
    found = {}
    for name, values in _space(recipe).items():
        value: Any = recipe.model_dump(mode="json")
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not _holds(values, value):
            return None
        found[name] = value
    return found


def _holds(values: Range | Choices, value: Any) -> bool:
    if isinstance(values, Choices):
        return _text(value) in map(_text, values.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not values.low <= value <= values.high:
        return False
    return values.step is None or math.isclose((value - values.low) / values.step % 1, 0, abs_tol=1e-9)


def _space(recipe: Recipe) -> dict[str, Range | Choices]:
    assert recipe.search is not None
    return recipe.search.space


def _distribution(name: str, values: Range | Choices) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Choices):
        return CategoricalDistribution([_text(choice) for choice in values.choices])
    if is_whole(name):
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
