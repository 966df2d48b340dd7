"""Every problem of a recipe file at once, with the field that was probably meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ftplatform.core.errors import FtError
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.fields import nearest
from ftplatform.recipes.resolve import EXTENDS, FindParent, inheritable, join, parent_of
from ftplatform.recipes.rules import contradictions
from ftplatform.recipes.search_space import space_problems


@dataclass(frozen=True, slots=True)
class Problem:
    field: str
    """Dotted; empty for the file as a whole."""
    message: str


def check(value: Any, find_parent: FindParent) -> list[Problem]:
    """All problems of a parsed recipe file, in the order of the fields; empty when `ft recipe add` would take it."""
    if not isinstance(value, dict):
        return [Problem("", f"found {type(value).__name__}: accepted is a mapping of fields")]
    found: list[Problem] = []
    inherited: dict[str, Any] = {}
    try:
        inherited = inheritable(parent_of(value, find_parent, "the recipe"))
    except FtError as error:
        found.append(Problem(EXTENDS, str(error)))
    own = {name: given for name, given in value.items() if name != EXTENDS}
    try:
        recipe = Recipe.model_validate(join(inherited, own))
    except ValidationError as error:
        # A field that is missing may stand in a parent that was not found; it is that which has to be mended.
        orphan = bool(found)
        return found + [_of(one) for one in error.errors() if not (orphan and one["type"] == "missing")]
    wrong = contradictions(recipe) | space_problems(recipe)
    return found + [Problem(name, message) for name, message in wrong.items()]


def _of(error: Any) -> Problem:
    path = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return Problem(path, f"unknown field{nearest(path)}")
    if error["type"] == "missing":
        return Problem(path, "required, and missing")
    message = error["msg"].removeprefix("Value error, ")
    found = f"; found {error['input']!r}" if path else ""
    return Problem(path, f"{message[0].lower()}{message[1:]}{found}")
