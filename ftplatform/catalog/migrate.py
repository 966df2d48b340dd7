"""Schema changes by alembic, applied on opening; safe when several processes open at once."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, inspect, text

SCRIPTS = Path(__file__).parent / "migrations"
HEAD = "0001"
"""The newest revision; written out so that the usual case needs no alembic import (0.3 s). A test compares it."""

_POSTGRES_LOCK = 7_301_855_210_111


def migrate(engine: Engine) -> None:
    with engine.begin() as connection:
        made = inspect(connection).has_table("alembic_version")
        if made and connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD:
            return
    from alembic import command
    from alembic.config import Config

    with engine.begin() as connection:
        # SQLite holds its write lock from BEGIN IMMEDIATE on; Postgres needs one of its own.
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
