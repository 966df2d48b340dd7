"""Recipes from the files of other programs. What cannot be carried over is listed, never dropped in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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

__all__ = ["SOURCES", "Converted", "Left", "convert", "document", "sentences"]


@dataclass(frozen=True, slots=True)
class _Source:
    read: Callable[[Reading], None]
    model: str
    """The key without which there is nothing to train."""
    groups: tuple[str, ...]


SOURCES = {
    name: _Source(program.read, program.MODEL, program.GROUPS)
    for name, program in (("axolotl", axolotl), ("llamafactory", llamafactory))
}


def convert(value: Any, source: str, name: str) -> Converted:
    """A recipe file's content from the parsed file of another program.

    Raises:
        InvalidConfig: an unknown program, a file that is no mapping or names no model, or that asks for what no recipe trains.
    """
    if source not in SOURCES:
        raise InvalidConfig(f"--from {source}: accepted are {', '.join(SOURCES)}")
    if not isinstance(value, dict):
        raise InvalidConfig(f"a file of {source} is a mapping of settings; found {type(value).__name__}")
    program = SOURCES[source]
    if not value.get(program.model):
        other = [name for name, one in SOURCES.items() if value.get(one.model)]
        hint = f"; it looks like a file of {other[0]}: --from {other[0]}" if other else ""
        raise InvalidConfig(f"a file of {source} names its model in {program.model}, and this one does not{hint}")
    reading = Reading(value, program.groups)
    reading.put("name", slug(name))
    reading.put("version", 1)
    program.read(reading)
    found = reading.finish()
    problems = tuple(f"{one.field or 'recipe'}: {one.message}" for one in check(found.recipe, _no_parent))
    return replace(found, recipe=_in_order(Recipe, found.recipe), problems=problems)


def document(converted: Converted, source: str, file: str) -> str:
    """The recipe file: what could not be carried over as comments, then the recipe."""
    lines = [f"# Imported from {' '.join(file.split())} ({source})."]
    lines += [f"# {' '.join(sentence.split())}" for sentence in sentences(converted)]
    if converted.left:
        lines.append(f"# Not carried over ({len(converted.left)}): key: value, why, nearest field.")
        lines += [f"#   {left.line()}" for left in converted.left]
    return "\n".join(lines) + "\n" + yaml.safe_dump(converted.recipe, sort_keys=False, width=120)


def sentences(converted: Converted) -> list[str]:
    """Everything for a person but the list of what was left."""
    said = [*converted.notes, *(f"`ft recipe check`: {one}" for one in converted.problems)]
    if converted.without_meaning:
        said.append(f"Without meaning here: {', '.join(converted.without_meaning)}.")
    return said


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
