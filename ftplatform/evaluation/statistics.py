"""Paired difference of two proportions: Tango's score interval, and what a given number of items can show.

Two models answer the same ``n`` items; only the pairs on which they disagree carry information. Sources:

* Tango T. (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample
  design, Statistics in Medicine 17:891-908: the interval.
* Connor R. J. (1987), Sample size for testing differences in proportions for the paired-sample design, Biometrics
  43:207-211: the power formula.

Every bound here is one-sided at 95 %: the pair ``(lower, upper)`` is a two-sided 90 % interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
POWER = 0.80
Z_LEVEL = NormalDist().inv_cdf(LEVEL)
Z_POWER = NormalDist().inv_cdf(POWER)
_STEPS = 60
"""Halvings of an interval of length 1: beyond the resolution of a float near 0.01, far beyond what a count can mean."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Counts over ``n`` items: ``gained`` only the candidate got right, ``lost`` only the reference did."""

    n: int
    gained: int
    lost: int

    def __post_init__(self) -> None:
        if min(self.gained, self.lost) < 0 or self.n < max(1, self.gained + self.lost):
            raise ValueError(f"impossible counts {self}: accepted are gained, lost >= 0 and n >= 1, n >= gained + lost")

    @property
    def difference(self) -> float:
        """Candidate minus reference, a share of items."""
        return (self.gained - self.lost) / self.n

    @property
    def discordance(self) -> float:
        """Share of items on which the two disagree."""
        return (self.gained + self.lost) / self.n


def score_statistic(pairs: Paired, difference: float) -> float:
    """Tango's z for the hypothesis that the true difference is ``difference``, which lies strictly between -1 and 1.

    ``z = (b - c - n d) / sqrt(n (2 q + d (1 - d)))`` with b gained, c lost and q the maximum-likelihood share of
    losses under the hypothesis, the larger root of ``2n q^2 + (d (2n - b + c) - b - c) q - c d (1 - d) = 0``.
    """
    n, gained, lost, d = pairs.n, pairs.gained, pairs.lost, difference
    linear = d * (2 * n - gained + lost) - gained - lost
    constant = -lost * d * (1 - d)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    # -linear + root cancels badly for a positive linear term; the second form of the same root does not.
    share_lost = (root - linear) / (4 * n) if linear <= 0 else -2 * constant / (linear + root)
    variance = n * (2 * share_lost + d * (1 - d))
    excess = gained - lost - n * d
    if variance <= 0.0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def score_interval(pairs: Paired, z: float = Z_LEVEL) -> tuple[float, float]:
    """One-sided lower and upper bounds of the true difference; ``z`` is the normal quantile of each bound's level.

    With no discordant pair they are ``-z^2/(n + z^2)`` and ``z^2/(n + z^2)``: agreement on few items proves little.
    """
    return _crossing(pairs, -1.0, pairs.difference, z), _crossing(pairs, pairs.difference, 1.0, -z)


def _crossing(pairs: Paired, low: float, high: float, z: float) -> float:
    """Where the statistic, which falls as the hypothesis rises, passes ``z`` between ``low`` and ``high``."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if score_statistic(pairs, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def smallest_visible_drop(n: int, discordance: float) -> float:
    """Smallest true drop, a share of items, that shows (upper bound below zero) with 80 % power.

    Connor's formula solved for the drop d: ``n d^2 = (z_95 sqrt(p) + z_80 sqrt(p - d^2))^2``, where p is the share of
    discordant pairs. p is not taken below what n items can exclude, Tango's bound ``z^2/(n + z^2)`` at zero
    discordant pairs, nor below d itself, because a drop of d makes that many pairs discordant. 1.0 where even the
    loss of every item could stay unseen.
    """
    if n < 1 or not 0.0 <= discordance <= 1.0:
        raise ValueError(f"n={n}, discordance={discordance}: accepted are n >= 1 and a share between 0 and 1")
    floor = Z_LEVEL**2 / (n + Z_LEVEL**2)

    def shows(drop: float) -> bool:
        share = max(discordance, floor, drop)
        return n * drop * drop >= (Z_LEVEL * math.sqrt(share) + Z_POWER * math.sqrt(share - drop * drop)) ** 2

    low, high = 0.0, 1.0
    if not shows(high):
        return 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def items_needed(pairs: Paired, margin: float) -> int | None:
    """Items with which non-inferiority would show with 80 % power, were the observed shares the true ones.

    ``(z_95 + z_80)^2 (p - d^2) / (margin + d)^2``. None where the observed drop is itself the margin or more: then no
    number of items would show it.
    """
    room = margin + pairs.difference
    if room <= 0:
        return None
    floor = Z_LEVEL**2 / (pairs.n + Z_LEVEL**2)
    variance = max(pairs.discordance, floor) - pairs.difference**2
    return max(pairs.n + 1, math.ceil((Z_LEVEL + Z_POWER) ** 2 * variance / room**2))
