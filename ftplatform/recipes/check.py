"""Every problem of a recipe file at once, with the field that was probably meant."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ftplatform.core.errors import FtError
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.resolve import EXTENDS, FindParent, group, inheritable, join, parent_of
from ftplatform.recipes.rules import contradictions, not_trained


@dataclass(frozen=True, slots=True)
class Problem:
    field: str
    """Dotted; empty for the file as a whole."""
    message: str
    severity: str = "error"
    """``error``, or ``not yet``: the recipe can be planned and not be trained."""


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
    found += [Problem(name, message) for name, message in contradictions(recipe).items()]
    return found + [Problem(name, message, "not yet") for name, message in not_trained(recipe).items()]


def _of(error: Any) -> Problem:
    path = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return Problem(path, f"unknown field{nearest(path)}")
    if error["type"] == "missing":
        return Problem(path, "required, and missing")
    message = error["msg"].removeprefix("Value error, ")
    found = f"; found {error['input']!r}" if path else ""
    return Problem(path, f"{message[0].lower()}{message[1:]}{found}")


def nearest(path: str) -> str:
    """``; did you mean training.epochs?`` for an unknown field, or nothing where none is near."""
    names = fields()
    *_, last = path.split(".")
    # The same name in another group is a better guess than a similar one in this.
    if elsewhere := [name for name in names if name.split(".")[-1] == last]:
        return f"; it stands under {elsewhere[0]}"
    near = difflib.get_close_matches(path, names, n=1, cutoff=0.7)
    by_last = {name.split(".")[-1]: name for name in reversed(names)}
    near = near or [by_last[one] for one in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.7)]
    return f"; did you mean {near[0]}?" if near else ""


def fields(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Dotted names of all fields, groups before their members."""
    found = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        below = group(field.annotation)
        found += fields(below, f"{prefix}{name}.") if below else []
    return found
