"""A training's progress in a line for people, with the time that is left."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque

from ftplatform.core.durations import in_words

TOLD = ("loss", "tokens_per_second", "mfu", "memory_gb", "grad_norm", "learning_rate")
"""Figures that go with a progress line."""
VALIDATED = ("eval_loss", "eval_reward")
"""Those of an evaluation, which always get a line."""
_WINDOW = 50
"""Steps that the time left is judged by."""


class TimeLeft:
    """Seconds that further steps will take, by the mean of the steps just done, the slowest tenth left out: a first step, a
    commit or a stall does not make the rest look long.

    It knows only this attempt, so that neither a resume's pause nor another machine's speed is in it.
    """

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=_WINDOW + 1)

    def seconds(self, steps: int, took: float, now: float | None = None) -> float:
        """For ``steps`` more, after one that took ``took`` seconds; ``now`` is monotonic."""
        self._ends.append(time.monotonic() if now is None else now)
        ends = list(self._ends)
        each = sorted(after - before for before, after in itertools.pairwise(ends)) or [took]
        if len(each) > 2:
            each = each[: min(len(each) - 1, math.ceil(len(each) * 0.9))]
        return round(statistics.fmean(each) * steps, 1)


def sentence(record: dict[str, float], steps: int, left: float) -> str:
    """``step 40 of 120: loss 1.2345, 5,120 tokens/s, MFU 31 %, about 4 min left``."""
    parts = [f"loss {record['loss']:.4f}"]
    if "reward" in record:
        parts.append(f"reward {record['reward']:.3f}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in record:
        parts.append(f"MFU {100 * record['mfu']:.{0 if record['mfu'] >= 0.1 else 1}f} %")
    if record["step"] < steps:
        parts.append(f"about {in_words(left)} left")
    return f"step {record['step']:.0f} of {steps}: {', '.join(parts)}"
