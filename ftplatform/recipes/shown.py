"""A recipe for a person's eye: where its numbers come from, and no group that it does not use."""

from __future__ import annotations

from itertools import takewhile

from ftplatform.core.methods import BUILT_IN
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.schema import EDITOR_LINE


def leading_comments(text: str) -> str:
    """The comments above a file's first field, without the line for editors."""
    lines = takewhile(lambda line: line.startswith("#") or not line.strip(), text.splitlines())
    return "".join(f"{line}\n" for line in lines if line.strip() and not line.startswith(EDITOR_LINE))


def idle_groups(recipe: Recipe) -> set[str]:
    """Options of other methods, ``lora`` where nothing of it is trained, and optional groups that are left out."""
    idle = {name for name in BUILT_IN if name != recipe.method}
    if recipe.parameterisation != "lora":
        idle.add("lora")
    if recipe.method in BUILT_IN:
        idle.add("options")
    return idle | {name for name in ("mix", "search") if getattr(recipe, name) is None}
