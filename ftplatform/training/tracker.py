"""Per-step figures to the trackers. One that fails, hangs or is away costs figures and never a training, nor its time.

Each tracker has a thread of its own: a server that takes ten seconds to refuse would otherwise take them from the GPU.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from ftplatform.core.payload import Tracking
from ftplatform.training.trackers import Backend, StepFigures, open_backends

FLUSH_SECONDS = 2.0
FLUSH_STEPS = 50
CLOSE_SECONDS = 60.0
"""What trackers get for the last figures, once the training is over."""
_BACK_OFF = (1.0, 60.0)
_LAST_TRIES = 4
_LAST_PAUSE = 4.0


class Tracker:
    """``log`` keeps, and a thread sends every two seconds or fifty steps; after an error it waits 1, 2, 4 ... 60 s before
    the next try.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.error: str | None = None
        """What went wrong last; None after a success."""
        self._waiting: deque[StepFigures] = deque()
        self._wake = threading.Event()
        self._status: str | None = None
        self._told = False
        self._thread: threading.Thread | None = None

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Keep the figures of one step, with the time of now."""
        self._waiting.append(StepFigures(step, time.time(), figures))
        self._start()
        if len(self._waiting) >= FLUSH_STEPS and self.error is None:
            self._wake.set()

    def begin_close(self, status: str) -> None:
        """Have what is left sent, in a few tries, and the run ended."""
        self._status = status
        self._start()
        self._wake.set()

    def end_close(self, deadline: float) -> str | None:
        """Wait for it until ``deadline`` (monotonic); returns what could not be told, if anything."""
        assert self._thread is not None
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._told:
            return None
        reason = self.error or f"no answer within {CLOSE_SECONDS:.0f} s"
        return f"{len(self._waiting)} steps of metrics did not reach {self.backend.where}: {reason}"

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"tracker {self.backend.where}", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        pause, tries = _BACK_OFF[0], 0
        while True:
            self._wake.wait(FLUSH_SECONDS if self.error is None else pause)
            self._wake.clear()
            status = self._status
            pause = _BACK_OFF[0] if self._flush(status) else min(pause * 2, _BACK_OFF[1])
            if status is not None:
                tries += 1
                if self._told or tries == _LAST_TRIES:
                    return
                pause = min(pause, _LAST_PAUSE)

    def _flush(self, status: str | None) -> bool:
        try:
            self.backend.open()
            while self._waiting:
                taken = list(self._waiting)[:FLUSH_STEPS]
                self.backend.send(taken)
                for _ in taken:
                    self._waiting.popleft()
            if status is not None:
                self.backend.end(status)
                self._told = True
        except Exception as error:  # noqa: BLE001 - whatever a tracker's client raises, the training goes on; the end tells
            self.error = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return False
        self.error = None
        return True


class Trackers:
    """All trackers of a training as one."""

    def __init__(self, backends: list[Backend]) -> None:
        self._trackers = [Tracker(backend) for backend in backends]

    def log(self, step: int, figures: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, figures)

    def close(self, status: str) -> str | None:
        """End all runs with an MLflow status, together within ``CLOSE_SECONDS``; returns what could not be told, if
        anything.
        """
        for tracker in self._trackers:
            tracker.begin_close(status)
        deadline = time.monotonic() + CLOSE_SECONDS
        problems = [tracker.end_close(deadline) for tracker in self._trackers]
        return "; ".join(filter(None, problems)) or None


def open_trackers(tracking: Tracking, key: str) -> Trackers:
    """MLflow's and those of the setting; nothing is connected before the first figures.

    Raises:
        InvalidConfig: a tracker was asked for and its package is not installed.
    """
    return Trackers(open_backends(tracking, key))
