"""Registered recipes and base models: both immutable under their key."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from ftplatform.catalog.base import Part, as_dicts, insert_missing, now
from ftplatform.catalog.tables import bases, recipes
from ftplatform.core.errors import Conflict, NotFound
from ftplatform.core.ids import BaseKey, RecipeKey, check_slug
from ftplatform.core.recipe import Recipe


class Recipes(Part):
    def add(self, recipe: Recipe) -> bool:
        """Register a recipe and return whether it is new; the same content again is fine.

        Raises:
            Conflict: the key exists with other content; an edit needs a new number.
        """
        key = str(recipe.key)
        with self.engine.begin() as db:
            body = db.execute(select(recipes.c.body).where(recipes.c.recipe == key)).scalar()
            insert_missing(
                db,
                recipes,
                recipe=key,
                digest=recipe.content_digest,
                body=recipe.model_dump(mode="json"),
                created_at=now(),
            )
        # Values and not the stored digest: a field that came with a newer platform stands in every new digest, and means
        # for an older recipe what its default says.
        known = Recipe.model_validate(body) if body is not None else None
        asked = recipe
        if body is not None and "strategy" not in body["hardware"] and recipe.hardware.gpus == "auto":
            # Registered when a file that did not say `gpus` meant 1.
            asked = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"gpus": 1})})
        if known is not None and known != asked:
            raise Conflict(
                f"recipe {key} is registered with other content (digest {known.content_digest[:12]}, this one {recipe.content_digest[:12]}); "
                f"a recipe never changes under its number: set version: {recipe.version + 1} and add it again",
                retry_helps=False,
            )
        return known is None

    def get(self, key: RecipeKey) -> Recipe:
        """Raises NotFound, naming the recipes there are."""
        with self.engine.begin() as db:
            body = db.execute(select(recipes.c.body).where(recipes.c.recipe == str(key))).scalar()
            if body is None:
                known = [row[0] for row in db.execute(select(recipes.c.recipe).order_by(recipes.c.recipe))]
                raise NotFound(
                    f"recipe {key} is unknown; known are {', '.join(known) or 'none'}. Add it with `ft recipe add FILE`"
                )
        return Recipe.model_validate(body)

    def all(self) -> list[str]:
        with self.engine.begin() as db:
            return [row[0] for row in db.execute(select(recipes.c.recipe).order_by(recipes.c.recipe))]


class Bases(Part):
    def add(self, key: BaseKey, source: dict[str, Any]) -> bool:
        """Register where a base model comes from and return whether it is new. The key's revision is made of the source."""
        with self.engine.begin() as db:
            known = db.execute(select(bases.c.base).where(bases.c.base == str(key))).first()
            insert_missing(db, bases, base=str(key), slug=key.slug, source=source, created_at=now())
        return known is None

    def source(self, key: BaseKey) -> dict[str, Any]:
        """Raises NotFound."""
        with self.engine.begin() as db:
            source = db.execute(select(bases.c.source).where(bases.c.base == str(key))).scalar()
        if source is None:
            raise NotFound(f"base model {key} is unknown: register it with `ft base add`")
        found: dict[str, Any] = source
        return found

    def newest(self, slug: str) -> BaseKey:
        """The revision of ``slug`` registered last.

        Raises:
            NotFound: naming the base models there are.
        """
        check_slug(slug, "base model")
        with self.engine.begin() as db:
            base = db.execute(
                select(bases.c.base).where(bases.c.slug == slug).order_by(bases.c.created_at.desc()).limit(1)
            ).scalar()
            if base is None:
                known = sorted({row[0] for row in db.execute(select(bases.c.slug))})
                raise NotFound(
                    f"base model {slug!r} is unknown; known are {', '.join(known) or 'none'}. Register it with `ft base add {slug} ...`"
                )
        return BaseKey.parse(base)

    def all(self) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(bases).order_by(bases.c.created_at)).all())
