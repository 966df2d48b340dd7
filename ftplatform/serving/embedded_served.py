"""A model that answers: weights, adapter and codec under one immutable name, kept while requests use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ftplatform.serving.desired import ServedModel
from ftplatform.serving.embedded_model import Instance
from ftplatform.serving.embedded_text import TextCodec


class Served:
    """Counts its users; the last to leave after `retire` frees the weights, so no answer loses its model."""

    def __init__(
        self, wanted: ServedModel, instance: Instance, adapter: str | None, codec: TextCodec, free: Callable[[], None]
    ) -> None:
        self.wanted = wanted
        self.instance = instance
        self.adapter = adapter
        self.codec = codec
        self.created = int(time.time())
        self._free = free
        self._users = 0
        self._retired = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def users(self) -> int:
        return self._users

    def acquire(self) -> bool:
        """Count one user more; False when the model is being removed."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            free = self._retired and self._users == 0
        if free:
            self._free()

    def retire(self) -> None:
        """Take no new users; the weights go when the last one has left. To be called once."""
        with self._lock:
            self._retired = True
            free = self._users == 0
        if free:
            self._free()
