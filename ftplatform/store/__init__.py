"""The object store: all bytes, content-addressed, plus small named documents that make them visible (manifest last)."""

from ftplatform.store.base import ObjectStore, Tree
from ftplatform.store.open import open_store

__all__ = ["ObjectStore", "Tree", "open_store"]
