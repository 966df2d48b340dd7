"""Recipes as YAML files: reading them, and the ones that ship."""

from __future__ import annotations

from pathlib import Path

import yaml

from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.recipe import Recipe, parse_recipe

SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> dict[str, Path]:
    """Name -> file of every recipe in the package."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        NotFound: no such file; the message lists the shipped recipes.
        InvalidConfig: not YAML, or with wrong fields: every one of them is listed.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"recipe file {path} does not exist; shipped recipes are {', '.join(shipped()) or 'none'}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"recipe file {path} is not readable YAML: {error}") from error
    return parse_recipe(value, f"recipe file {path}")
