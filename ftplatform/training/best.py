"""Which evaluation is the best so far, and when there is no hope for a better one: functions of the metric records alone.

The records travel with every checkpoint, so an attempt that resumes decides as if nothing had happened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Record = dict[str, float]


def score(record: Record) -> float | None:
    """Lower is better: ``eval_loss``, or ``-eval_reward`` of a method that has no loss to compare; None without one."""
    value = record["eval_loss"] if "eval_loss" in record else -record.get("eval_reward", math.nan)
    return value if math.isfinite(value) else None


def best_step(records: Sequence[Record]) -> int | None:
    """Step of the best evaluation, the earliest of equals; None before the first."""
    scored = [(found, int(record["step"])) for record in records if (found := score(record)) is not None]
    return min(scored)[1] if scored else None


def no_hope(records: Sequence[Record], patience: int) -> bool:
    """Whether the last ``patience`` evaluations were no better than the best before them; never with 0.

    Prechelt 1998, "Early stopping - but when?", criterion UP_s.
    """
    steps = [int(record["step"]) for record in records if _evaluated(record)]
    best = best_step(records)
    return bool(patience) and best is not None and sum(step > best for step in steps) >= patience


def _evaluated(record: Record) -> bool:
    return "eval_loss" in record or "eval_reward" in record
