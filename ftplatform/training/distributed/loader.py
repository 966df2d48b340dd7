"""An alarm for data that come slower than the GPU takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SHARE = 0.1
"""Of a step's time spent waiting for its rows, above which somebody should know: the GPU stands still meanwhile."""
WINDOW = 20
"""Steps that are looked at together: a single slow read is no trend."""


class LoaderAlarm:
    """``say`` gets one line per training, when over the last ``WINDOW`` steps waiting took more than ``SHARE``."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say, self._said = say, False
        self._steps: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def note(self, waited: float, seconds: float) -> float:
        """A step of ``seconds``, ``waited`` of them for data; returns the share of waiting, 0 to 1."""
        self._steps.append((waited, seconds))
        share = sum(one for one, _ in self._steps) / max(sum(all_ for _, all_ in self._steps), 1e-9)
        if not self._said and len(self._steps) == WINDOW and share > SHARE:
            self._said = True
            self._say(
                f"the data are slower than the training: {share:.0%} of the last {WINDOW} steps went by waiting for rows; look "
                "at the disk and the CPU cores that the job was given"
            )
        return min(1.0, waited / max(seconds, 1e-9))
