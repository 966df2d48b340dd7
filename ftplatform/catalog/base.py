"""What the catalog's parts share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, insert
from sqlalchemy.dialects import postgresql, sqlite

from ftplatform.catalog.tables import audit


class Part:
    """A concern of the catalog: methods over one engine, each in a transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def insert_missing(connection: Connection, table: Table, **values: Any) -> None:
    """Insert the row unless its primary key is taken; safe against another process that inserts it at the same moment."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(make(table).values(**values).on_conflict_do_nothing())


def record(connection: Connection, actor: str, action: str, subject: str, before: Any, after: Any) -> None:
    """Write an audit entry in the transaction of the change it describes."""
    connection.execute(
        insert(audit).values(at=now(), actor=actor, action=action, subject=subject, before=before, after=after)
    )


def as_dicts(rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in rows]
