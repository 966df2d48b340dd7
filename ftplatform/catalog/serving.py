"""What the inference engines should hold, how requests are routed, and what the engines report."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from ftplatform.catalog.base import Part, as_dicts, insert_missing, now, record
from ftplatform.catalog.tables import engines, routes, served
from ftplatform.core.errors import Conflict

ENGINE_ALIVE_SECONDS = 15.0
"""An engine reports every second or two; one silent for longer is treated as away."""


class Serving(Part):
    def want(
        self,
        name: str,
        *,
        model: str,
        kind: str,
        weights: str,
        base_weights: str,
        template: str,
        fingerprint: str | None,
    ) -> None:
        """Have the engines hold these weights under the immutable ``name``.

        Raises:
            Conflict: the name already stands for other weights.
        """
        values = {
            "model": model,
            "kind": kind,
            "weights": weights,
            "base_weights": base_weights,
            "template": template,
            "fingerprint": fingerprint,
        }
        with self.engine.begin() as db:
            insert_missing(db, served, name=name, wanted=1, created_at=now(), **values)
            row = db.execute(select(served).where(served.c.name == name)).one()
            if row.weights != weights or row.base_weights != base_weights:
                raise Conflict(
                    f"served name {name!r} stands for weights {row.weights[:12]}, not {weights[:12]}: a name never changes its meaning",
                    retry_helps=False,
                )
            db.execute(update(served).where(served.c.name == name).values(wanted=1))

    def retire(self, name: str) -> None:
        """Let the engines drop the name; its meaning stays taken."""
        with self.engine.begin() as db:
            db.execute(update(served).where(served.c.name == name).values(wanted=0))

    def retire_older(self, model: str, keep: int) -> None:
        """Retire all but the ``keep`` newest served names of ``model``, never one that a route points to."""
        with self.engine.begin() as db:
            targets = db.execute(select(routes.c.targets).where(routes.c.model == model)).scalar() or []
            names = db.execute(
                select(served.c.name)
                .where((served.c.model == model) & (served.c.wanted == 1))
                .order_by(served.c.created_at.desc())
            ).scalars()
            routed = {name for name, _ in targets}
            for name in list(names)[keep:]:
                if name not in routed:
                    db.execute(update(served).where(served.c.name == name).values(wanted=0))

    def wanted(self) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(served).where(served.c.wanted == 1).order_by(served.c.created_at)).all())

    def set_route(self, model: str, targets: list[tuple[str, float]], actor: str) -> None:
        """Route requests for ``model`` to served names by weight."""
        values = {"targets": [list(target) for target in targets], "updated_at": now()}
        with self.engine.begin() as db:
            insert_missing(db, routes, model=model, generation=0, **{**values, "targets": []})
            row = db.execute(select(routes).where(routes.c.model == model).with_for_update()).one()
            db.execute(update(routes).where(routes.c.model == model).values(generation=row.generation + 1, **values))
            record(db, actor, "route", model, row.targets, values["targets"])

    def routes(self) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(routes).order_by(routes.c.model)).all())

    def report_engine(self, url: str, observed: Any) -> None:
        """An engine's sign of life, with what it holds."""
        with self.engine.begin() as db:
            values = {"observed": observed, "seen_at": now()}
            insert_missing(db, engines, url=url, **values)
            db.execute(update(engines).where(engines.c.url == url).values(**values))

    def live_engines(self) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(engines).where(engines.c.seen_at > now() - ENGINE_ALIVE_SECONDS)).all())
