"""The gate: a candidate passes only where "not worse than the margin" is shown, item by item. Pure.

Every suite must pass against every reference. A false promotion therefore needs a false pass of the one suite that
truly got worse, which happens in at most 5 % of cases: an intersection-union test needs no correction for the number
of comparisons (Berger 1982, Technometrics 24:295-300). See docs/decisions/2026-11-22-gate-statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ftplatform.core.errors import NotFound, PayloadFailed
from ftplatform.core.manifests import Comparison
from ftplatform.evaluation.statistics import Paired, items_needed, score_interval, smallest_visible_drop

Verdict = Literal["promote", "quarantine"]
Reference = Literal["base", "champion"]
Scores = Mapping[str, int]
"""Item id -> 0 or 1."""


def compare(
    suite: str, reference: Reference, margin: float, reference_scores: Scores, candidate_scores: Scores
) -> Comparison:
    """Candidate against one reference on the same items.

    ``non-inferior`` where the lower bound lies above ``-margin``; otherwise ``regression`` where the upper bound lies
    below zero, so that a drop is shown; otherwise ``insufficient``: the items show neither.

    Raises:
        PayloadFailed: no items, different items, or a score other than 0 or 1.
    """
    if not candidate_scores or reference_scores.keys() != candidate_scores.keys():
        differing = sorted(reference_scores.keys() ^ candidate_scores.keys())
        raise PayloadFailed(
            f"suite {suite!r} against {reference}: {len(candidate_scores)} candidate items, {len(reference_scores)} "
            f"reference items, {len(differing)} in only one of them (first: {differing[:3]}); a comparison "
            "needs the same items on both sides"
        )
    if not {*reference_scores.values(), *candidate_scores.values()} <= {0, 1}:
        raise PayloadFailed(f"suite {suite!r} against {reference}: accepted scores of an item are 0 and 1")
    pairs = Paired(
        n=len(candidate_scores),
        gained=sum(candidate_scores[item] > reference_scores[item] for item in candidate_scores),
        lost=sum(candidate_scores[item] < reference_scores[item] for item in candidate_scores),
    )
    lower, upper = score_interval(pairs)
    return Comparison(
        suite=suite,
        reference=reference,
        n=pairs.n,
        discordant=pairs.gained + pairs.lost,
        reference_score=sum(reference_scores.values()) / pairs.n,
        candidate_score=sum(candidate_scores.values()) / pairs.n,
        difference=pairs.difference,
        lower=lower,
        upper=upper,
        margin=margin,
        smallest_visible_drop=smallest_visible_drop(pairs.n, pairs.discordance),
        outcome="non-inferior" if lower > -margin else "regression" if upper < 0 else "insufficient",
    )


def decide(
    comparisons: Sequence[Comparison], *, suites: Iterable[str], references: Iterable[Reference]
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and a sentence per comparison, failures first.

    Raises:
        NotFound: a suite was not compared with a reference: what was not measured never passes.
    """
    done = {(c.suite, c.reference) for c in comparisons}
    wanted = {(suite, reference) for reference in references for suite in suites}
    if missing := sorted(wanted - done):
        raise NotFound(
            "the gate cannot decide, not compared: "
            + ", ".join(f"{suite} against {reference}" for suite, reference in missing)
        )
    if not comparisons:
        raise NotFound("the gate cannot decide: no suite was compared with any reference")
    failures = [c for c in comparisons if c.outcome != "non-inferior"]
    passes = [c for c in comparisons if c.outcome == "non-inferior"]
    return "quarantine" if failures else "promote", tuple(map(sentence, [*failures, *passes]))


def sentence(c: Comparison) -> str:
    """What the comparison found, in numbers."""
    found = (
        f"{c.suite} against {c.reference}: {c.candidate_score:.1%} after {c.reference_score:.1%} on {c.n} items, "
        f"difference {_points(c.difference)}"
    )
    if c.outcome == "non-inferior":
        return f"{found}; the 95 % lower bound {_points(c.lower)} is inside the margin of {_points(-c.margin)}."
    if c.outcome == "regression":
        return (
            f"{found}; a drop is shown (95 % upper bound {_points(c.upper)}) and it may reach {_points(c.lower)}, "
            f"beyond the margin of {_points(-c.margin)}."
        )
    change = round(c.difference * c.n)
    needed = items_needed(Paired(c.n, (c.discordant + change) // 2, (c.discordant - change) // 2), c.margin)
    remedy = (
        f"about {needed} items would show it if these shares held"
        if needed is not None
        else "at this difference no number of items would show it"
    )
    return (
        f"{found}; insufficient: the bounds {_points(c.lower)} to {_points(c.upper)} show neither a drop nor that the "
        f"margin of {_points(-c.margin)} holds. {c.n} items with this much disagreement show drops from "
        f"{c.smallest_visible_drop:.1%}; {remedy}."
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"
