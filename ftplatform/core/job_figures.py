"""What a training took, over all its attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftplatform.core.durations import in_words
from ftplatform.core.frozen import Frozen


class JobFigures(Frozen):
    steps: int
    tokens: int
    supervised_tokens: int
    peak_memory_gb: float
    """Of one GPU; resident memory of a process without one."""
    gpu: str
    gpus: int
    attempts: int
    wall_seconds: float
    """From the start of each attempt to its end, together: start-up, loading and saving are in it."""
    useful_seconds: float
    """In optimizer steps that are part of the result; what was computed again counts once."""
    price: float
    currency: str
    mfu: float | None = None
    profile: str | None = None
    """Object with the profiler's trace."""

    @property
    def gpu_hours(self) -> float:
        return self.wall_seconds / 3600 * self.gpus

    @property
    def goodput(self) -> float | None:
        """Useful time over all time; None where nothing was trained."""
        return min(1.0, self.useful_seconds / self.wall_seconds) if self.wall_seconds else None

    def words(self) -> dict[str, str]:
        """For people, in their order."""
        if not self.attempts:
            return {"trained": "nothing: the weights were there already"}
        goodput = self.goodput or 0.0
        lost = in_words(max(0.0, self.wall_seconds - self.useful_seconds))
        found = {
            "steps": f"{self.steps:,}",
            "tokens": f"{self.tokens:,}, {self.supervised_tokens:,} of them supervised",
            "time": f"{in_words(self.wall_seconds)} in {self.attempts} attempt{'s' if self.attempts > 1 else ''}",
            "goodput": f"{goodput:.0%} of it in steps that count; {lost} in start-up, saving, evaluation and what was done again",
            "GPU-hours": f"{self.gpu_hours:.4g} ({self.gpus} x {self.gpu})",
            "money": f"{self.price:.4g} {self.currency}",
            "peak memory": f"{self.peak_memory_gb:.2f} GB",
        }
        return found | ({"model FLOPs utilisation": f"{self.mfu:.1%}"} if self.mfu is not None else {})


def job_figures(
    attempts: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, float],
    *,
    gpu: str,
    gpus: int,
    rate: float,
    currency: str,
    profile: str | None = None,
) -> JobFigures:
    """From the catalog's rows of the training's attempts (none where the weights were there already) and its result's ``numbers``.

    ``rate`` is the price of all GPUs for an hour.
    """
    wall = sum(one["finished_at"] - one["started_at"] for one in attempts)
    peaks = [one["numbers"].get("peak_memory_bytes", 0.0) for one in attempts]
    return JobFigures(
        steps=int(numbers["steps"]),
        tokens=int(numbers["tokens"]),
        supervised_tokens=int(numbers["supervised_tokens"]),
        peak_memory_gb=max([numbers["peak_memory_bytes"], *peaks]) / 1e9,
        gpu=gpu,
        gpus=gpus,
        attempts=len(attempts),
        wall_seconds=wall,
        useful_seconds=numbers.get("useful_seconds", 0.0),
        price=wall / 3600 * rate,
        currency=currency,
        mfu=numbers.get("mfu"),
        profile=profile,
    )
