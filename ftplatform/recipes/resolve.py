"""From what a file says to a complete recipe: one level of inheritance, and where every value came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import RecipeKey
from ftplatform.core.recipe import Recipe, parse_recipe

EXTENDS = "extends"
"""A file's key for its parent, ``slug@N``; not a field of the recipe that comes out, which is complete."""
OWN = ("name", "version", "description")
"""Never inherited: they are a recipe's identity."""


@dataclass(frozen=True, slots=True)
class Parent:
    body: dict[str, Any]
    """The complete recipe, as JSON."""
    extends: str | None
    """What it was made from itself; None for a recipe without a parent."""
    origins: dict[str, str] = field(default_factory=dict)
    """Of its own values; see ``Resolved``."""


FindParent = Callable[[RecipeKey], Parent]
"""Raises NotFound."""


@dataclass(frozen=True, slots=True)
class Resolved:
    recipe: Recipe
    extends: str | None
    origins: dict[str, str]
    """Dotted field -> ``recipe``, ``default``, ``parent slug@N``, or ``parent slug@N (default)`` where the parent says nothing."""


def resolve(value: Any, find_parent: FindParent, where: str = "recipe") -> Resolved:
    """Complete what a file says from its parent and the defaults.

    Groups (``training``, ``lora``, ...) are joined field by field; lists and tables such as ``mix.weights`` are replaced; ``null``
    takes an optional group away.

    Raises:
        InvalidConfig: wrong fields, all of them listed; or a parent that has a parent itself.
        NotFound: no such parent.
    """
    parent = parent_of(value, find_parent, where)
    inherited, extends = inheritable(parent), value[EXTENDS] if parent else None
    own = {name: given for name, given in value.items() if name != EXTENDS} if isinstance(value, dict) else value
    recipe = parse_recipe(join(inherited, own) if inherited else own, where)
    given, taken = leaves(Recipe, own), leaves(Recipe, inherited)
    origins = {}
    for name in leaves(Recipe, recipe.model_dump(mode="json")):
        by_default = parent is not None and parent.origins.get(name) == "default"
        origins[name] = (
            "recipe"
            if _covered(name, given)
            else f"parent {extends}{' (default)' if by_default else ''}"
            if _covered(name, taken)
            else "default"
        )
    return Resolved(recipe, extends, origins)


def parent_of(value: Any, find_parent: FindParent, where: str) -> Parent | None:
    """The parent that a file names; None without ``extends``.

    Raises:
        InvalidKey: ``extends`` is not slug@N.
        InvalidConfig: the parent has a parent itself.
        NotFound: no such parent.
    """
    extends = value.get(EXTENDS) if isinstance(value, dict) else None
    if extends is None:
        return None
    parent = find_parent(RecipeKey.parse(str(extends)))
    if parent.extends is not None:
        raise InvalidConfig(
            f"{where} extends {extends}, which extends {parent.extends}: inheritance has one level. "
            f"Extend {parent.extends}, or copy the fields of {extends}"
        )
    return parent


def inheritable(parent: Parent | None) -> dict[str, Any]:
    """A parent's values without its identity."""
    return {name: value for name, value in parent.body.items() if name not in OWN} if parent else {}


def join(below: Mapping[str, Any], above: Any) -> Any:
    """``below`` with the values of ``above``, groups of fields joined."""
    if not isinstance(above, dict):
        return above
    groups = [name for name, field in Recipe.model_fields.items() if group(field.annotation)]
    joined = {**below, **above}
    for name in groups:
        if isinstance(below.get(name), dict) and isinstance(above.get(name), dict):
            joined[name] = {**below[name], **above[name]}
    return joined


def leaves(model: type[BaseModel], value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted field -> value of everything ``value`` sets, as deep as ``model`` has fields."""
    found: dict[str, Any] = {}
    for name, inner in value.items() if isinstance(value, dict) else ():
        field = model.model_fields.get(name)
        below = group(field.annotation) if field is not None else None
        if below is not None and isinstance(inner, dict):
            found |= leaves(below, inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = inner
    return found


def group(annotation: Any) -> type[BaseModel] | None:
    """The model of a field that is a group of fields, also where it may be null."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _covered(name: str, given: dict[str, Any]) -> bool:
    """Whether ``given`` sets the field or, by a null, the group it is in."""
    return name in given or any(name.startswith(f"{group}.") for group in given)
