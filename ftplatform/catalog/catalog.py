"""Opening the catalog, and the catalog itself: one attribute per concern."""

from __future__ import annotations

import sqlite3
import time
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, make_url

from ftplatform.catalog.champions import Champions
from ftplatform.catalog.datasets import Datasets
from ftplatform.catalog.jobs import Jobs
from ftplatform.catalog.leases import Leases
from ftplatform.catalog.migrate import migrate
from ftplatform.catalog.recipes import Bases, Recipes
from ftplatform.catalog.serving import Serving

LOCK_SECONDS = 60
"""How long a process waits for another's write before it gives up."""


class Catalog:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @cached_property
    def datasets(self) -> Datasets:
        return Datasets(self.engine)

    @cached_property
    def recipes(self) -> Recipes:
        return Recipes(self.engine)

    @cached_property
    def bases(self) -> Bases:
        return Bases(self.engine)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self.engine)

    @cached_property
    def leases(self) -> Leases:
        return Leases(self.engine)

    @cached_property
    def champions(self) -> Champions:
        return Champions(self.engine)

    @cached_property
    def serving(self) -> Serving:
        return Serving(self.engine)


def open_catalog(url: str) -> Catalog:
    """Connect, bring the schema up to date and return the catalog."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        if address.database:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(address, connect_args={"timeout": LOCK_SECONDS})
        _make_sqlite_transactional(engine)
    else:
        engine = create_engine(address, pool_pre_ping=True)
    migrate(engine)
    return Catalog(engine)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Readers and a writer side by side. SQLite answers this one statement "locked" at once, past its own timeout."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _make_sqlite_transactional(engine: Engine) -> None:
    """Take the write lock when a transaction begins.

    The driver's own mode begins at the first write, so two processes that read, then write, both fail with "database is
    locked" without waiting; with BEGIN IMMEDIATE the second waits for the first.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection) -> None:  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("BEGIN IMMEDIATE")
