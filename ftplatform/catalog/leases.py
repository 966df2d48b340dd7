"""Leases with fencing tokens: one holder at a time, for as long as it shows signs of life.

The token grows whenever the holder changes, so a holder that lost its lease without noticing can be told apart from the new one.
Checkpoint commits have a fence of their own, the payload's attempt number, because they must hold without a database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from ftplatform.catalog.base import Part, insert_missing, now
from ftplatform.catalog.tables import leases
from ftplatform.core.errors import Conflict


class Leases(Part):
    def acquire(self, name: str, holder: str, seconds: float) -> int:
        """Take or renew the lease and return its fencing token.

        Raises:
            Conflict: somebody else holds it; the message says who and until when at the latest.
        """
        with self.engine.begin() as db:
            # A row that is always there can be locked: two first holders would otherwise both insert, and one would fail.
            insert_missing(db, leases, name=name, holder="", token=0, expires_at=0.0)
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

    @contextmanager
    def hold(self, name: str, holder: str, seconds: float) -> Iterator[None]:
        """Take the lease, renew it in the background for as long as the block runs, then give it up.

        Raises:
            Conflict: somebody else holds it; or, at the end of the block, somebody else took it meanwhile (the process
                was asleep for longer than the lease), so what the block made must not be published.
        """
        self.acquire(name, holder, seconds)
        done, lost = Event(), list[Conflict]()

        def renew() -> None:
            while not done.wait(seconds / 4):
                try:
                    self.acquire(name, holder, seconds)
                except Conflict as error:
                    lost.append(error)
                    return
                except SQLAlchemyError:
                    # A database that is away for a moment costs nothing while the lease lasts; the next beat tries again.
                    continue

        beat = Thread(target=renew, name=f"lease {name}", daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()
            self.release(name, holder)
        if lost:
            raise lost[0]

    def holder(self, name: str) -> str | None:
        """Who took the lease last, None for a lease nobody ever took."""
        with self.engine.begin() as db:
            holder: str | None = db.execute(select(leases.c.holder).where(leases.c.name == name)).scalar()
        return holder

    def free(self, name: str, for_seconds: float = 0.0) -> bool:
        """Whether nobody holds the lease, and has not for ``for_seconds``."""
        with self.engine.begin() as db:
            until = db.execute(select(leases.c.expires_at).where(leases.c.name == name)).scalar()
        return until is None or float(until) + for_seconds <= now()

    def release(self, name: str, holder: str) -> None:
        """Give the lease up; a no-op when somebody else holds it by now. The row stays, because it carries the token."""
        with self.engine.begin() as db:
            db.execute(
                update(leases).where((leases.c.name == name) & (leases.c.holder == holder)).values(expires_at=0.0)
            )
