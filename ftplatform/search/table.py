"""A search in words: a row per trial, and the values found as a recipe has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from ftplatform.core.search_config import Objective
from ftplatform.core.search_result import Trial, best_of

_SHORT = 60


def trial_rows(trials: Sequence[Trial], objective: Objective) -> list[dict[str, Any]]:
    """By score, the best first; trials without one after those, by number."""
    best = best_of(tuple(trials), objective)
    sign = -1 if objective != "eval_loss" else 1
    ordered = sorted(trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.number))
    return [
        {
            "trial": f"{trial.number}{' (best)' if best and trial.number == best.number else ''}",
            "state": trial.state,
            objective: "" if trial.score is None else f"{trial.score:.4g}",
            "validation": _validation(trial),
            **{
                name: value if isinstance(value, int | float | str) else json.dumps(value)
                for name, value in trial.parameters.items()
            },
            "minutes": f"{60 * trial.hours:.1f}",
            "price": f"{trial.price:.4g}",
            "why": trial.why[:_SHORT],
        }
        for trial in ordered
    ]


def as_yaml(parameters: dict[str, Any]) -> str:
    """Dotted values as the lines of a recipe: for the next version of it."""
    nested: dict[str, Any] = {}
    for name, value in parameters.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return yaml.safe_dump(nested, sort_keys=False)


def _validation(trial: Trial) -> str:
    if trial.loss is not None:
        return f"{trial.loss:.4g}"
    return f"{trial.seen[max(trial.seen)]:.4g} after {max(trial.seen)}/9" if trial.seen else ""
