"""The names of a recipe's fields, and the one that was probably meant."""

from __future__ import annotations

import difflib

from pydantic import BaseModel

from ftplatform.core.recipe import Recipe
from ftplatform.recipes.resolve import group


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
