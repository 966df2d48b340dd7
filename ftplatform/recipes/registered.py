"""Recipes in the catalog, with what their files said: parents, and where every value came from.

The catalog has the complete recipe. The document ``recipes/<slug>/<N>`` in the store has ``{extends, origins}``, which say nothing
about how to train and so are no part of the recipe's content.
"""

from __future__ import annotations

from typing import Any

from ftplatform.catalog import Catalog
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import RecipeKey
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.resolve import FindParent, Parent, Resolved, leaves
from ftplatform.recipes.rules import contradictions
from ftplatform.recipes.search_space import space_problems
from ftplatform.store import ObjectStore


def register(catalog: Catalog, store: ObjectStore, resolved: Resolved) -> bool:
    """Add a recipe and return whether it is new; the same content again is fine, and keeps the first file's origins.

    Raises:
        InvalidConfig: fields that contradict each other, or a search space that cannot be searched.
        Conflict: the key exists with other content.
    """
    recipe = resolved.recipe
    if refused := contradictions(recipe) | space_problems(recipe):
        lines = "\n".join(f"  {name}: {message}" for name, message in refused.items())
        raise InvalidConfig(f"recipe {recipe.key} cannot be added:\n{lines}")
    new = catalog.recipes.add(recipe)
    if store.find_doc(_doc(recipe.key)) is None:
        store.put_doc(_doc(recipe.key), {"extends": resolved.extends, "origins": resolved.origins})
    return new


def registered_parents(catalog: Catalog, store: ObjectStore) -> FindParent:
    """Parents among the registered recipes."""

    def find(key: RecipeKey) -> Parent:
        recipe = catalog.recipes.get(key)
        extends = (store.find_doc(_doc(key)) or {}).get("extends")
        return Parent(recipe.model_dump(mode="json"), extends, origins(store, recipe))

    return find


def origins(store: ObjectStore, recipe: Recipe) -> dict[str, str]:
    """Dotted field -> where its value came from; see ``resolve.Resolved``.

    A recipe that was registered without its file's origins, or before a field was known, is compared with the defaults.
    """
    known = (store.find_doc(_doc(recipe.key)) or {}).get("origins", {})
    defaults = _defaults(recipe)
    values = leaves(Recipe, recipe.model_dump(mode="json"))
    return {
        name: known.get(name) or ("default" if name in defaults and defaults[name] == value else "recipe")
        for name, value in values.items()
    }


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """The defaults of the groups that the recipe has; required fields have none."""
    found: dict[str, Any] = {}

    def walk(value: Any, prefix: str) -> None:
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if hasattr(type(inner), "model_fields"):
                walk(inner, f"{prefix}{name}.")
            elif not field.is_required():
                default = field.get_default(call_default_factory=True)
                found[prefix + name] = list(default) if isinstance(default, tuple) else default

    walk(recipe, "")
    return found


def _doc(key: RecipeKey) -> str:
    return f"recipes/{key.slug}/{key.number}"
