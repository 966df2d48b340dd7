"""Which version a training starts from (``init_from``), pinned by digest."""

from ftplatform.core.errors import NotFound, PlanRefused
from ftplatform.core.manifests import BaseModel
from ftplatform.core.plan import PinnedChampion
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.rules import continues
from ftplatform.resources.platform import Parts
from ftplatform.serving.registry import ADAPTER_TAG
from ftplatform.store.adapters import adapter_config


def pinned_start(parts: Parts, recipe: Recipe, base: BaseModel, model: str) -> PinnedChampion | None:
    """The version of the registered ``model`` that ``init_from`` names; None where training starts from a base.

    Raises:
        NotFound: there is no such version, or no model in service yet.
        PlanRefused: training cannot go on from it.
    """
    start = recipe.init_from
    if start is None or (isinstance(start, str) and start != "champion"):
        return None
    found = parts.catalog.champions.pinned(model) if start == "champion" else _version(parts, base, model, int(start))
    if found is None:
        raise NotFound(
            f"init_from champion: {model} has no model in service yet; leave init_from out, or name a version"
        )
    if found.base_weights != base.weights:
        raise PlanRefused(
            f"init_from {start}: version {found.version} of {model} stands on a base with weights "
            f"{found.base_weights[:12]}, {base.key} has {base.weights[:12]}; accepted is a version on the same base"
        )
    if why := continues(recipe, adapter_config(parts.store, found.weights)):
        raise PlanRefused(f"init_from {start}: training cannot go on from version {found.version} of {model}: {why}")
    return found


def _version(parts: Parts, base: BaseModel, model: str, number: int) -> PinnedChampion:
    versions = {one["version"]: one["tags"] for one in parts.registry.versions(model)}
    if number not in versions:
        known = ", ".join(map(str, versions)) or "none"
        raise NotFound(f"init_from {number}: {model} has no such version; its versions are {known}")
    tags = versions[number]
    if tags["ft.base"] != base.key:
        raise PlanRefused(
            f"init_from {number}: that version of {model} stands on {tags['ft.base']}, the plan's base is {base.key}; "
            "accepted is a version on the same base"
        )
    return PinnedChampion(version=number, kind=tags["ft.kind"], weights=tags[ADAPTER_TAG], base_weights=base.weights)
