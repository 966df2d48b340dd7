"""``ft recipe``: add, list, show, check, diff, schema, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ftplatform.cli.common import add_partition, console, open_parts, show
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, RecipeKey
from ftplatform.core.recipe import Recipe
from ftplatform.partitions import recipes
from ftplatform.recipes import SHIPPED, first_of, in_folder, load, read_resolved, shipped
from ftplatform.recipes.check import check as check_value
from ftplatform.recipes.convert import SOURCES, convert, document, sentences
from ftplatform.recipes.diff import diff
from ftplatform.recipes.planned import planned
from ftplatform.recipes.registered import origins, register, registered_parents
from ftplatform.recipes.resolve import Parent, leaves
from ftplatform.recipes.schema import schema_text
from ftplatform.recipes.shown import idle_groups, leading_comments
from ftplatform.resources.jobs import latest_doc

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(source: Annotated[str, typer.Argument(help="a YAML file, or the name of a shipped recipe")]) -> None:
    """Register a recipe; under its number it never changes again."""
    parts = open_parts()
    resolved = read_resolved(_file(source), registered_parents(parts.catalog, parts.store))
    new = register(parts.catalog, parts.store, resolved)
    add_partition(recipes, str(resolved.recipe.key))
    console.print(f"recipe {resolved.recipe.key} {'added' if new else 'was there already'}")


@app.command("list")
def list_recipes() -> None:
    """Registered recipes, and the shipped ones that could be added."""
    known = open_parts().catalog.recipes.all()
    show("recipes", ("recipe",), [(key,) for key in known])
    rows = [(name, (value := load(path))["base"], value.get("description", "")) for name, path in shipped().items()]
    show("shipped", ("name", "base", "description"), rows)


@app.command("show")
def show_recipe(
    recipe: Annotated[str, typer.Argument(help="slug@N, a YAML file, or the name of a shipped recipe")],
    resolved: Annotated[bool, typer.Option("--resolved", help="every value with where it came from")] = False,
    dataset: Annotated[
        str | None, typer.Option(help="with --resolved: tenant/name, whose newest plan with this recipe counts")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="also groups that this recipe does not use")] = False,
) -> None:
    """A recipe with defaults filled in, as YAML; or, with --resolved, as a table with each value's origin."""
    if dataset is not None and not resolved:
        raise InvalidConfig("--dataset says which plan counts, and holds with --resolved only")
    registered = _is_key(recipe)
    if dataset is not None and not registered:
        raise InvalidConfig(f"--dataset needs a registered recipe: `ft recipe add {recipe}`, then slug@N")
    found, came = _registered_recipe(recipe) if registered else _recipe_of_file(recipe)
    body, idle = found.model_dump(mode="json"), set() if everything else idle_groups(found)
    if not resolved:
        if not registered:
            typer.echo(leading_comments(_file(recipe).read_text(encoding="utf-8")), nl=False)
        typer.echo(yaml.safe_dump({k: v for k, v in body.items() if k not in idle}, sort_keys=False), nl=False)
        return
    values = leaves(Recipe, body)
    if dataset is not None:
        parts, key = open_parts(), found.key
        line = f"{DatasetKey.parse(dataset)}|{key}"
        plan = parts.store.find_doc(latest_doc("training_plan", line))
        if plan is None:
            raise NotFound(f"line {line} was never planned: `ft train {dataset} {key}` plans it")
        for name, value in planned(plan["manifest"]).items():
            if name not in values or values[name] != value:
                values[name], came[name] = value, "plan"
    rows = [(name, _text(value), came[name]) for name, value in values.items() if name.split(".")[0] not in idle]
    show(str(found.key), ("field", "value", "origin"), rows)


@app.command()
def check(files: Annotated[list[str], typer.Argument(help="YAML files, or names of shipped recipes")]) -> None:
    """Every problem of recipe files at once; ends with 1 when `ft recipe add` would refuse one. Needs no server."""
    bad = False
    for source in files:
        path = _file(source)
        problems = check_value(load(path), first_of(in_folder(path.parent), in_folder(SHIPPED), _registered))
        bad = bad or bool(problems)
        console.print(f"{source}: {f'{len(problems)} problem(s)' if problems else 'fine'}", markup=False)
        for problem in problems:
            console.print(f"  {problem.field or '(file)'}: {problem.message}", markup=False, soft_wrap=True)
    if bad:
        raise typer.Exit(1)


@app.command("diff")
def diff_recipes(
    before: Annotated[str, typer.Argument(help="slug@N, a YAML file, or the name of a shipped recipe")],
    after: Annotated[str, typer.Argument(help="the same")],
) -> None:
    """What differs in how two recipes train, field by field, defaults filled in."""
    changes = diff(_recipe(before), _recipe(after))
    if not changes:
        console.print(f"{before} and {after} train in the same way", markup=False)
        return
    show("differences", ("field", before, after), [(c.field, _text(c.before), _text(c.after)) for c in changes])


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="write it there; default prints it")] = None,
) -> None:
    """The JSON schema of recipe files, for completion in an editor."""
    if out is None:
        typer.echo(schema_text(), nl=False)
    else:
        out.write_text(schema_text(), encoding="utf-8")
        console.print(f"first line of a recipe beside it: # yaml-language-server: $schema={out.name}", markup=False)


@app.command("import")
def import_recipe(
    file: Annotated[Path, typer.Argument(help="a YAML file of the other program")],
    source: Annotated[str, typer.Option("--from", help=" or ".join(SOURCES))],
    name: Annotated[str | None, typer.Option(help="slug of the recipe; default from the file's name")] = None,
    out: Annotated[Path | None, typer.Option(help="write the recipe there; default prints it")] = None,
) -> None:
    """A recipe from an Axolotl or LLaMA-Factory file, and what of it could not be carried over; ends with 1 when
    `ft recipe add` would refuse it as it is."""
    found = convert(load(file), source, name or file.stem)
    text = document(found, source, file.name)
    if out is None:
        typer.echo(text, nl=False)
        for problem in found.problems:
            typer.echo(f"ft recipe check: {problem}", err=True)
        raise typer.Exit(1 if found.problems else 0)
    out.write_text(text, encoding="utf-8")
    console.print(f"{out}: recipe {found.recipe['name']}@1", markup=False)
    for sentence in sentences(found):
        console.print(f"  {sentence}", markup=False, soft_wrap=True)
    rows = [(left.key, _text(left.value), left.why, left.nearest or "") for left in found.left]
    show(f"not carried over: {len(rows)}", ("key", "value", "why", "nearest field"), rows)
    if found.problems:
        raise typer.Exit(1)


def _file(source: str) -> Path:
    return shipped().get(source) or Path(source)


def _recipe(source: str) -> Recipe:
    return (_registered_recipe(source) if _is_key(source) else _recipe_of_file(source))[0]


def _is_key(source: str) -> bool:
    return "@" in source and not Path(source).exists()


def _registered_recipe(key: str) -> tuple[Recipe, dict[str, str]]:
    """With the origin of every value."""
    parts = open_parts()
    found = parts.catalog.recipes.get(RecipeKey.parse(key))
    return found, origins(parts.store, found)


def _recipe_of_file(source: str) -> tuple[Recipe, dict[str, str]]:
    found = read_resolved(_file(source), _registered)
    return found.recipe, found.origins


def _registered(key: RecipeKey) -> Parent:
    """Opens the catalog only for a file whose parent is needed from there."""
    parts = open_parts()
    return registered_parents(parts.catalog, parts.store)(key)


def _text(value: Any) -> str:
    """A value as the one line of YAML that a recipe file has for it."""
    if value is None or isinstance(value, str):
        return value or ""
    line = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return line.strip().removesuffix("...").strip()
