"""What a search found: every trial, and the best one."""

from __future__ import annotations

from typing import Any, Literal

from ftplatform.core.frozen import Frozen
from ftplatform.core.search_config import MAXIMIZED, Objective


class Trial(Frozen):
    number: int
    """From 0, in the order they were begun."""
    parameters: dict[str, Any]
    """Dotted recipe field -> value."""
    state: Literal["running", "complete", "pruned", "failed"] = "running"
    """``pruned``: stopped early, refused by its plan, or diverged: the sampler keeps away. ``failed``: says nothing about its values."""
    why: str = ""
    """Of a trial that is not complete, a sentence."""
    score: float | None = None
    """The objective, of a complete trial."""
    loss: float | None = None
    """On the validation rows, at its end."""
    seen: dict[int, float] = {}
    """Ninths of the training -> the validation figure there."""
    rungs: tuple[float, ...] = ()
    """What ASHA compared at its rungs."""
    steps: int = 0
    """Optimizer steps it was to take."""
    weights: str | None = None
    """Tree of what was trained."""
    planned_hours: float = 0.0
    """Upper estimate of its plan, and with it the price: what counts against the caps while it runs."""
    planned_price: float = 0.0
    hours: float = 0.0
    """Of its payloads; those of an identical training that was there already cost nothing."""
    price: float = 0.0


class SearchResult(Frozen):
    dataset: str
    recipe: str
    study: str
    """Digest of what makes trials comparable: data, base model, suite, recipe and space."""
    curated: str
    """The dataset version that was searched on."""
    objective: Objective
    trials: tuple[Trial, ...]
    best: int
    """Number of the best trial."""
    parameters: dict[str, Any]
    """Its values."""
    score: float
    importance: dict[str, float]
    """Parameter -> share of what decides whether a trial is good (PED-ANOVA, arXiv:2304.10255); empty for too few trials."""
    hours: float
    price: float
    currency: str
    stopped: str
    """Why there are fewer trials than asked for; empty when all were done."""


def best_of(trials: tuple[Trial, ...], objective: Objective) -> Trial | None:
    """The complete trial with the best score, the earliest of equals; None when none is complete."""
    sign = 1 if objective in MAXIMIZED else -1
    done = [trial for trial in trials if trial.state == "complete" and trial.score is not None]
    return max(done, key=lambda trial: (sign * (trial.score or 0.0), -trial.number), default=None)
