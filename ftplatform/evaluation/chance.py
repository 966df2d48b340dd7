"""Whether a share is shown to be above what is asked: one-sided bounds of a single proportion. Pure."""

from __future__ import annotations

import math

from ftplatform.core.manifests import EvalReport
from ftplatform.evaluation.statistics import Z_LEVEL

CHANCE = 0.5
"""Share of pairs that a coin gets right."""


def lower_bound(share: float, n: int) -> float:
    """One-sided 95 % lower bound of a share of ``n`` items (Wilson 1927, JASA 22:209-212)."""
    z2 = Z_LEVEL**2
    middle = share + z2 / (2 * n)
    spread = Z_LEVEL * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (middle - spread) / (1 + z2 / n)


def beats_chance(report: EvalReport) -> tuple[bool, str]:
    """Whether a reward model is shown to tell better from worse on every suite of pairs, and the sentence that says so."""
    bounds = {name: lower_bound(score.score, score.n) for name, score in report.scores["candidate"].items()}
    said = "; ".join(
        f"{name}: {score.score:.1%} of {score.n} pairs right, 95 % lower bound {bounds[name]:.1%}"
        for name, score in report.scores["candidate"].items()
    )
    passed = min(bounds.values()) > CHANCE
    return passed, f"{said}, {'above' if passed else 'not shown to be above'} the {CHANCE:.0%} of a coin."


def above_chance(report: EvalReport) -> EvalReport:
    """The report of a reward model: being no worse than the base is not enough where the base knows nothing."""
    passed, said = beats_chance(report)
    verdict = report.verdict if passed else "quarantine"
    return report.model_copy(update={"verdict": verdict, "reasons": (said, *report.reasons)})
