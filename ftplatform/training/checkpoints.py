"""Committed checkpoints: a tree in the store, made visible by a document that is written last.

``checkpoints/<key>/step-00000100`` = ``{"tree", "step", "attempt"}``. A newer attempt raises ``fences/<key>`` =
``{"token": n}`` before it starts; an attempt that finds a higher token than its own is a zombie and commits nothing.
Between the look at the fence and the commit lies a gap that a store without compare-and-swap cannot close; it costs
nothing, because every attempt of one key computes the same bytes. Of the documents the newest ``keep`` and the best
one stay; objects of the others remain until the store's garbage collection.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ftplatform.core.errors import CorruptObject, NotFound
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import fence_name


class Fenced(Exception):
    """A newer attempt of the same key exists."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    store: ObjectStore
    key: str
    attempt: int
    keep: int

    def check_fence(self) -> None:
        """Raises Fenced where a newer attempt has begun."""
        token = (self.store.find_doc(fence_name(self.key)) or {"token": 0})["token"]
        if token > self.attempt:
            raise Fenced(
                f"attempt {self.attempt} of {self.key[:16]} stopped without a commit: attempt {token} has begun; "
                "a retry of this attempt does not help"
            )

    def commit(self, folder: Path, step: int, best: int | None = None) -> str:
        """Store ``folder`` and make it the checkpoint of ``step``; returns the tree's digest.

        The checkpoint of step ``best`` stays, whatever its age.

        Raises:
            Fenced: a newer attempt has begun; nothing was made visible.
        """
        self.check_fence()
        tree = self.store.put_tree(folder)
        self.check_fence()
        self.store.put_doc(self._name(step), {"tree": tree, "step": step, "attempt": self.attempt})
        for name in self._names()[self.keep :]:
            if best is None or name != self._name(best):
                self.store.delete_doc(name)
        return tree

    def fetch(self, step: int, into: Path, without: Collection[str] = ()) -> Path:
        """Lay the checkpoint of ``step`` out in ``into``, all but the files ``without``. Raises NotFound, CorruptObject."""
        return self.store.fetch_tree(self.store.get_doc(self._name(step))["tree"], into, without)

    def restore(self, into: Path, say: Callable[[str], object]) -> int:
        """Lay the newest whole checkpoint out in ``into`` and return its step; 0 when there is none.

        A checkpoint with a missing or damaged object is passed over, with a line to ``say``.
        """
        for name in self._names():
            document = self.store.get_doc(name)
            try:
                self.store.fetch_tree(document["tree"], into)
            except (CorruptObject, NotFound) as error:
                shutil.rmtree(into, ignore_errors=True)
                say(f"checkpoint of step {document['step']} is damaged and passed over: {error}")
                # It would count as the newest when old ones go. Only the living attempt may: a zombie deletes nothing.
                self.check_fence()
                self.store.delete_doc(name)
                continue
            return int(document["step"])
        return 0

    @property
    def _prefix(self) -> str:
        return f"checkpoints/{self.key}"

    def _name(self, step: int) -> str:
        return f"{self._prefix}/step-{step:08d}"

    def _names(self) -> list[str]:
        return self.store.list_docs(self._prefix)[::-1]
