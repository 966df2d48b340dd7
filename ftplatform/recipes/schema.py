"""The JSON schema of a recipe file, for completion and checks in an editor.

The first line of a file tells the YAML language server of most editors where it is:
``# yaml-language-server: $schema=recipe.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftplatform.core.recipe import Recipe
from ftplatform.recipes.resolve import EXTENDS, group

SCHEMA_FILE = Path(__file__).parent / "recipe.schema.json"
EDITOR_LINE = "# yaml-language-server: $schema="


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a file: the fields of a recipe, and ``extends``.

    A file with a parent need not have what a recipe must have, so what is required stands in one condition and not in the groups.
    """
    schema = Recipe.model_json_schema()
    must: list[dict[str, Any]] = []
    for name, field in Recipe.model_fields.items():
        below = group(field.annotation)
        needed = [inner for inner, one in below.model_fields.items() if one.is_required()] if below else []
        if below and needed and below.__name__ in schema["$defs"]:
            schema["$defs"][below.__name__].pop("required", None)
            must.append({"properties": {name: {"required": needed}}})
    top = [name for name in schema["required"] if name not in ("name", "version")]
    parent = {
        "type": "string",
        "pattern": "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?@[1-9][0-9]{0,5}$",
        "description": "Key of the recipe whose values hold where this file says nothing: slug@N, itself without a parent.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Recipe",
        "description": "How to train: base model, method, hyperparameters, hardware.",
        "properties": {EXTENDS: parent, **schema["properties"]},
        "required": ["name", "version"],
        "if": {"not": {"required": [EXTENDS]}},
        "then": {"required": top, "allOf": must},
    }


def schema_text() -> str:
    """The shipped file's content."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
