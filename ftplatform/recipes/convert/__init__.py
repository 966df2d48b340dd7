"""Recipes from the files of other programs. What cannot be carried over is listed, never dropped in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from pydantic import BaseModel

from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import RecipeKey
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.check import check
from ftplatform.recipes.convert import axolotl, llamafactory
from ftplatform.recipes.convert.reading import Converted, Left, Reading, slug
from ftplatform.recipes.resolve import Parent, group

__all__ = ["SOURCES", "Converted", "Left", "convert", "document"]

SOURCES: dict[str, Callable[[Reading], None]] = {"axolotl": axolotl.read, "llamafactory": llamafactory.read}


def convert(value: Any, source: str, name: str) -> Converted:
    """A recipe file's content from the parsed file of another program.

    Raises:
        InvalidConfig: an unknown program, or a file that is no mapping or names no model.
    """
    if source not in SOURCES:
        raise InvalidConfig(f"--from {source}: accepted are {', '.join(SOURCES)}")
    if not isinstance(value, dict):
        raise InvalidConfig(f"a file of {source} is a mapping of settings; found {type(value).__name__}")
    reading = Reading(value)
    reading.put("name", slug(name))
    reading.put("version", 1)
    SOURCES[source](reading)
    found = reading.finish()
    problems = [f"{one.field or 'recipe'}: {one.message}" for one in check(found.recipe, _no_parent)]
    notes = (*found.notes, *(f"`ft recipe check`: {one}" for one in problems))
    return Converted(_in_order(Recipe, found.recipe), found.left, notes)


def document(converted: Converted, source: str, file: str) -> str:
    """The recipe file: what could not be carried over as comments, then the recipe."""
    lines = [f"# Imported from {' '.join(file.split())} ({source})."]
    lines += [f"# {' '.join(note.split())}" for note in converted.notes]
    if converted.left:
        lines.append(f"# Not carried over ({len(converted.left)}): key: value, why, nearest field.")
        lines += [f"#   {left.line()}" for left in converted.left]
    return "\n".join(lines) + "\n" + yaml.safe_dump(converted.recipe, sort_keys=False, width=120)


def _in_order(model: type[BaseModel], value: dict[str, Any]) -> dict[str, Any]:
    """As the fields stand in the documentation's table; an import tells nothing by its order."""
    found = {}
    for name, field in model.model_fields.items():
        if name in value:
            below = group(field.annotation)
            found[name] = _in_order(below, value[name]) if below and isinstance(value[name], dict) else value[name]
    return found


def _no_parent(key: RecipeKey) -> Parent:
    raise NotFound(f"an imported recipe has no parent; {key} was looked for")
