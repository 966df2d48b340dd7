"""Trees that the processes of one machine fetch once: the first to need one fetches it, the others link to its files."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Collection
from pathlib import Path

from ftplatform.core.digests import digest_json
from ftplatform.store.base import ObjectStore


class SharedTrees(ObjectStore):
    """``store`` for one of several processes; ``folder`` is a local one that all of them have.

    Whoever holds the lock of a tree fetches it, so that nobody has to know who comes first and not all need to come. The
    one that waits for it gives no sign of life, like the one that fetches.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        super().__init__(store._blobs)
        self._folder = folder

    def fetch_tree(self, digest: str, into: Path, without: Collection[str] = ()) -> Path:
        """As ``ObjectStore.fetch_tree``, but ``into`` holds links to files that others read: nobody may write into them."""
        whole = self._folder / digest_json([digest, *sorted(without)])
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.is_dir():
                # What a killed process left is not whole; a folder gets its name when it is.
                part = whole.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                super().fetch_tree(digest, part, without).rename(whole)
        return linked(whole, into)


def linked(whole: Path, into: Path) -> Path:
    """Make ``into`` a folder with links to every file below ``whole``; returns it."""
    into.mkdir(parents=True, exist_ok=True)
    for path in whole.rglob("*"):
        if path.is_file():
            target = into / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(path)
    return into
