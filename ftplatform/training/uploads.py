"""Checkpoints on their way to the store while the training goes on.

The training's own thread writes a checkpoint to the local disk, which is fast and takes the weights as they are at that
step; one thread behind it stores and commits the folder. At most one is on its way: a store slower than the training
holds the next checkpoint up, never the memory or the disk. A checkpoint counts from its commit on, so a kill in between
costs the steps since the one before, and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


class Uploads:
    """``commit`` stores a folder and makes it a checkpoint; the folder is removed afterwards, whatever happened."""

    def __init__(self, commit: Callable[[Path, int, int | None], object]) -> None:
        self._commit = commit
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._flight: Future[None] | None = None
        self._error: BaseException | None = None

    def put(self, folder: Path, step: int, best: int | None) -> None:
        """Send ``folder`` off as the checkpoint of ``step``, after the one before has arrived.

        ``best`` is the step whose checkpoint is kept whatever its age. After a failure nothing is sent any more: ask
        ``error``.
        """
        if self.wait() is None:
            self._flight = self._pool.submit(self._upload, folder, step, best)

    @property
    def error(self) -> BaseException | None:
        """Why a checkpoint did not arrive, as far as is known; does not wait."""
        if self._flight is not None and self._flight.done():
            self._error = self._error or self._flight.exception()
            self._flight = None
        return self._error

    def wait(self) -> BaseException | None:
        """Until nothing is on its way; returns ``error``."""
        if self._flight is not None:
            self._flight.exception()
        return self.error

    def close(self) -> None:
        """Wait for what is on its way, also when the training ended badly: its last checkpoint is worth the most then."""
        self._pool.shutdown()

    def _upload(self, folder: Path, step: int, best: int | None) -> None:
        try:
            self._commit(folder, step, best)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
