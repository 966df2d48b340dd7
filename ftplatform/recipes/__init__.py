"""Recipes as YAML files: reading them, and the ones that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import RecipeKey
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.resolve import EXTENDS, FindParent, Parent, Resolved, resolve

SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> dict[str, Path]:
    """Name -> file of every recipe in the package."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load(path: Path) -> Any:
    """What a recipe file says, as parsed YAML.

    Raises:
        NotFound: no such file; the message lists the shipped recipes.
        InvalidConfig: not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"recipe file {path} does not exist; shipped recipes are {', '.join(shipped()) or 'none'}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"recipe file {path} is not readable YAML: {error}") from error


def read_resolved(path: Path, *find: FindParent) -> Resolved:
    """Read a recipe file and complete it; a parent is looked for by each of ``find``, beside the file, among the shipped.

    Raises:
        NotFound: no such file, or no such parent.
        InvalidConfig: not YAML, or with wrong fields: every one of them is listed.
    """
    return resolve(load(path), first_of(*find, in_folder(path.parent), in_folder(SHIPPED)), f"recipe file {path}")


def read_recipe(path: Path) -> Recipe:
    """``read_resolved`` without its origins, and without registered parents."""
    return read_resolved(path).recipe


def in_folder(folder: Path) -> FindParent:
    """Parents among the YAML files of a folder, by the name and version they give themselves."""

    def find(key: RecipeKey) -> Parent:
        for path in sorted(folder.glob("*.yaml")):
            # A folder may hold other YAML, broken YAML too; only a file that says it is the recipe is read as one.
            if not _says_it_is(path, key):
                continue
            value = load(path)
            extends = value.get(EXTENDS)
            if extends is not None:
                return Parent({}, str(extends))
            found = resolve(value, _none, f"recipe file {path}")
            return Parent(found.recipe.model_dump(mode="json"), None, found.origins)
        raise NotFound(f"recipe {key} is not in {folder}")

    return find


def first_of(*find: FindParent) -> FindParent:
    """The first of several places that has the recipe."""

    def search(key: RecipeKey) -> Parent:
        tried = []
        for one in find:
            try:
                return one(key)
            except NotFound as error:
                tried.append(str(error))
        raise NotFound("; ".join(tried))

    return search


def _says_it_is(path: Path, key: RecipeKey) -> bool:
    text = path.read_bytes()
    if key.slug.encode() not in text:
        return False
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(value, dict) and (value.get("name"), value.get("version")) == (key.slug, key.number)


def _none(key: RecipeKey) -> Parent:
    raise NotFound(f"recipe {key} is not looked for here")
