"""The engine's thread: answers under way take turns, one token each, every forward with its own adapter.

One thread owns all models, so a switch of the adapter and the forward after it cannot be torn apart. Each round takes
the sequences grouped by model (one switch per group and round), gives each one forward with its own KV cache, and in
between does what must not overlap with a forward: adding and removing adapters. A sequence's arithmetic never depends
on its neighbours, so the same request gives the same bits on an idle and on a busy engine.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

from ftplatform.serving.embedded_errors import internal, try_again
from ftplatform.serving.embedded_sequence import Sequence

T = TypeVar("T")
PREFILL_CHUNK = 256
"""Prompt tokens per turn: a long prompt delays the other streams by one such forward, not by its whole length."""

_log = logging.getLogger(__name__)


class Scheduler:
    """``max_active`` sequences take turns, ``max_waiting`` more may queue; the next is refused with 503.

    ``threads`` are torch's, set for the process when the engine's thread begins; None leaves them.
    """

    def __init__(self, max_active: int = 16, max_waiting: int = 64, threads: int | None = None) -> None:
        self._threads = threads
        self._max_active = max_active
        self._max_waiting = max_waiting
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._tokens = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive()

    def state(self) -> dict[str, int]:
        return {"active": len(self._active), "waiting": len(self._waiting), "tokens": self._tokens}

    def submit(self, sequence: Sequence) -> None:
        """Queue ``sequence``, whose model the caller has acquired; from here on the scheduler releases it.

        Raises:
            ApiError: 503 with retry-after, when the queue is full or the engine is closing (the model is released).
        """
        with self._wake:
            full = len(self._waiting) >= self._max_waiting
            if not full and not self._closing and self.healthy:
                self._waiting.append(sequence)
                self._wake.notify()
                return
        sequence.served.release()
        if full:
            raise try_again(f"the queue is full ({self._max_waiting} requests are waiting)", "engine_overloaded")
        raise try_again("the engine is shutting down", "engine_closing")

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the engine's thread between two rounds and return, or raise, what it does."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                future.set_exception(error)

        self.post(
            job, else_run=lambda: future.set_exception(try_again("the engine is shutting down", "engine_closing"))
        )
        return future.result()

    def post(self, job: Callable[[], None], else_run: Callable[[], None] | None = None) -> None:
        """The same without waiting; ``else_run`` is called instead when the engine is closing."""
        with self._wake:
            if not self._closing:
                self._jobs.append(job)
                self._wake.notify()
                return
        if else_run is not None:
            else_run()

    def _run(self) -> None:
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            while self._next_round():
                self._round()
        except BaseException:
            _log.critical("the engine's thread died; the server reports unhealthy and must be restarted", exc_info=True)
            raise
        finally:
            with self._wake:
                self._closing = True
                left = [*self._active, *self._waiting]
                jobs = list(self._jobs)
                self._active, self._waiting, self._jobs = [], deque(), deque()
            for sequence in left:
                self._end(sequence, failed=True)
            for job in jobs:
                _do(job)

    def _next_round(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._jobs or self._active or self._waiting)
            if self._closing:
                return False
            jobs = list(self._jobs)
            self._jobs.clear()
        for job in jobs:
            _do(job)
        with self._wake:
            while self._waiting and len(self._active) < self._max_active:
                self._active.append(self._waiting.popleft())
            # A cancelled request that still waits must not keep its place in the bounded queue.
            gone = [sequence for sequence in self._waiting if sequence.cancelled]
            for sequence in gone:
                self._waiting.remove(sequence)
        for sequence in gone:
            self._end(sequence)
        return True

    def _round(self) -> None:
        # Sorting is stable: within a model the sequences keep their order of arrival.
        for sequence in sorted(self._active, key=lambda s: (id(s.served.instance), s.served.adapter or "")):
            if sequence.cancelled or self._turn(sequence):
                self._active.remove(sequence)
                self._end(sequence)

    def _turn(self, sequence: Sequence) -> bool:
        """One forward of ``sequence``; True when it is over."""
        try:
            ids, sequence.pending = sequence.pending[:PREFILL_CHUNK], sequence.pending[PREFILL_CHUNK:]
            logits = self._forward(sequence, ids)
            if sequence.pending:
                return False
            self._tokens += 1
            return sequence.accept(logits)
        except Exception:  # noqa: BLE001 - one answer fails, the others go on
            _log.exception("answering with %s failed", sequence.served.name)
            sequence.fail()
            return True

    def _forward(self, sequence: Sequence, ids: list[int]) -> torch.Tensor:
        served = sequence.served
        return served.instance.forward(served.adapter, ids, sequence.cache)

    def _end(self, sequence: Sequence, failed: bool = False) -> None:
        if failed:
            sequence.fail(internal("the engine stopped before the answer was complete", "engine_closing"))
        sequence.served.release()


def _do(job: Callable[[], None]) -> None:
    """A job that fails must not take the engine, and everybody's answers, with it."""
    try:
        job()
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a job between two rounds failed")
