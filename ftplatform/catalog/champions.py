"""Which version of a registered model is in service: compare-and-swap, audited."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update

from ftplatform.catalog.base import Part, now, record
from ftplatform.catalog.tables import champions
from ftplatform.core.errors import Conflict
from ftplatform.core.plan import PinnedChampion


class Champions(Part):
    def get(self, model: str) -> dict[str, Any] | None:
        with self.engine.begin() as db:
            row = db.execute(select(champions).where(champions.c.model == model)).first()
        return None if row is None else dict(row._mapping)

    def pinned(self, model: str) -> PinnedChampion | None:
        row = self.get(model)
        if row is None:
            return None
        return PinnedChampion(
            version=row["version"], kind=row["kind"], weights=row["weights"], base_weights=row["base_weights"]
        )

    def swap(self, model: str, expected: int | None, new: PinnedChampion, served_name: str, actor: str) -> None:
        """Make ``new`` the champion if version ``expected`` (None: no champion) still is.

        Raises:
            Conflict: another champion was made since ``expected`` was read; the candidate must be compared with that one.
        """
        values = {**new.model_dump(), "served_name": served_name, "updated_at": now()}
        with self.engine.begin() as db:
            row = db.execute(select(champions).where(champions.c.model == model).with_for_update()).first()
            found = None if row is None else row.version
            if found != expected:
                raise Conflict(
                    f"champion of {model}: expected version {expected}, found {found}; the candidate was not compared with it, "
                    "so train or evaluate the line again",
                    retry_helps=False,
                )
            if row is None:
                db.execute(insert(champions).values(model=model, generation=1, **values))
            else:
                db.execute(
                    update(champions).where(champions.c.model == model).values(generation=row.generation + 1, **values)
                )
            record(db, actor, "champion", model, found, new.version)
