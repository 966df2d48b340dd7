"""The catalog: who owns what, what was asked for and what is in service. SQL tables on SQLite or Postgres, one class per concern."""

from ftplatform.catalog.catalog import Catalog, open_catalog

__all__ = ["Catalog", "open_catalog"]
