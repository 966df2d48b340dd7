"""Leases with fencing tokens: one holder at a time, for as long as it shows signs of life.

The token grows whenever the holder changes, so a holder that lost its lease without noticing can be told apart from the new
one wherever the token is compared (checkpoint commits).
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from ftplatform.catalog.base import Part, now
from ftplatform.catalog.tables import leases
from ftplatform.core.errors import Conflict


class Leases(Part):
    def acquire(self, name: str, holder: str, seconds: float) -> int:
        """Take or renew the lease and return its fencing token.

        Raises:
            Conflict: somebody else holds it; the message says who and until when at the latest.
        """
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        with self.engine.begin() as db:
            # A row that is always there can be locked: two first holders would otherwise both insert, and one would fail.
            db.execute(insert(leases).values(name=name, holder="", token=0, expires_at=0.0).on_conflict_do_nothing())
            row = db.execute(select(leases).where(leases.c.name == name).with_for_update()).one()
            moment = now()
            if row.holder != holder and row.expires_at > moment:
                raise Conflict(
                    f"{name} is taken by {row.holder} for up to {row.expires_at - moment:.0f} s more unless it renews; "
                    "one job at a time works on it, try again when that one has ended"
                )
            token = row.token if row.holder == holder else row.token + 1
            db.execute(
                update(leases)
                .where(leases.c.name == name)
                .values(holder=holder, token=token, expires_at=moment + seconds)
            )
            return int(token)

    def release(self, name: str, holder: str) -> None:
        """Give the lease up; a no-op when somebody else holds it by now. The row stays, because it carries the token."""
        with self.engine.begin() as db:
            db.execute(
                update(leases).where((leases.c.name == name) & (leases.c.holder == holder)).values(expires_at=0.0)
            )
