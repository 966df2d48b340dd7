"""``ft recipe``: add, list, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from ftplatform.cli.common import add_partition, console, open_parts, show
from ftplatform.core.ids import RecipeKey
from ftplatform.partitions import recipes
from ftplatform.recipes import read_recipe, shipped

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(source: Annotated[str, typer.Argument(help="a YAML file, or the name of a shipped recipe")]) -> None:
    """Register a recipe; under its number it never changes again."""
    recipe = read_recipe(shipped().get(source) or Path(source))
    parts = open_parts()
    new = parts.catalog.recipes.add(recipe)
    add_partition(recipes, str(recipe.key))
    console.print(f"recipe {recipe.key} {'added' if new else 'was there already'}")


@app.command("list")
def list_recipes() -> None:
    """Registered recipes, and the shipped ones that could be added."""
    known = open_parts().catalog.recipes.all()
    show("recipes", ("recipe",), [(key,) for key in known])
    show("shipped", ("name", "file"), sorted((name, path.name) for name, path in shipped().items()))


@app.command("show")
def show_recipe(recipe: Annotated[str, typer.Argument(help="slug@N")]) -> None:
    """A recipe with every default filled in, as YAML."""
    body = open_parts().catalog.recipes.get(RecipeKey.parse(recipe)).model_dump(mode="json")
    console.print(yaml.safe_dump(body, sort_keys=False), highlight=False)
