"""Two recipes field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftplatform.core.recipe import Recipe
from ftplatform.recipes.resolve import OWN, leaves


@dataclass(frozen=True, slots=True)
class Change:
    field: str
    """Dotted."""
    before: Any
    after: Any


def diff(before: Recipe, after: Recipe) -> list[Change]:
    """What differs in how they train: complete values, so that a default and the same value written out are equal."""
    left, right = (leaves(Recipe, one.model_dump(mode="json")) for one in (before, after))
    # A group that only one of them has (``mix``) is null in the other, and stands under other names there.
    names = [name for name in dict.fromkeys([*left, *right]) if name not in OWN]
    return [Change(name, left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)]
