"""Alembic's entry: runs in the connection, and so in the transaction and lock, of ``catalog.migrate``."""

from alembic import context

from ftplatform.catalog.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
