"""Whether a recipe's search space can be searched: every field exists, and every value by itself makes a sound recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftplatform.core.errors import FtError
from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import Choices, Range
from ftplatform.recipes.overrides import find_field, overridden, refused_field
from ftplatform.recipes.rules import contradictions

_NEVER = ("image", "hardware")
"""They decide where a trial runs and not how good it is."""


def space_problems(recipe: Recipe, refuses: Callable[[Recipe], str] = lambda recipe: "") -> dict[str, str]:
    """``search.space.FIELD`` -> what is wrong with it, all at once; empty for a sound space and for a recipe without one.

    ``refuses`` adds a judge: why a recipe with one of the values could not be used, for example served. Values are tried one field at
    a time, beside the recipe's own; a combination that means nothing is found, and kept away from, when a trial draws it.
    """
    found = {}
    for name, values in recipe.search.space.items() if recipe.search else ():
        if said := refused_field(name) or _misplaced(name, values):
            found[f"search.space.{name}"] = said
            continue
        wrong = {str(value): why for value in edge_values(values) if (why := _why_not(recipe, name, value, refuses))}
        if wrong:
            found[f"search.space.{name}"] = "; ".join(f"{value}: {why}" for value, why in wrong.items())
    return found


def edge_values(values: Range | Choices) -> tuple[Any, ...]:
    """Every choice, or both ends of a range."""
    return values.choices if isinstance(values, Choices) else (values.low, values.high)


def is_whole(name: str) -> bool:
    """Whether the field holds whole numbers."""
    field = find_field(name)
    kinds = () if field is None else (field.annotation, *getattr(field.annotation, "__args__", ()))
    return int in kinds and float not in kinds


def _misplaced(name: str, values: Range | Choices) -> str:
    if name.split(".")[0] in _NEVER:
        return "does not change what a training learns, and so cannot be searched"
    if isinstance(values, Range):
        numbers = [one for one in (values.low, values.high, values.step) if one is not None]
        if is_whole(name) and not all(isinstance(one, int) for one in numbers):
            return f"the field holds whole numbers; found {', '.join(map(str, numbers))}"
    return ""


def _why_not(recipe: Recipe, name: str, value: Any, refuses: Callable[[Recipe], str]) -> str:
    try:
        varied = overridden(recipe, {name: value})
    except FtError as error:
        return " ".join(line.strip() for line in str(error).splitlines()[1:]) or str(error)
    before = contradictions(recipe)
    new = {field: why for field, why in contradictions(varied).items() if field not in before}
    return "; ".join(f"{field} {why}" for field, why in new.items()) or refuses(varied)
