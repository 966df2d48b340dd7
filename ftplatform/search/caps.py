"""What a search may cost: asked before every trial, by its plan."""

from __future__ import annotations

from collections.abc import Sequence

from ftplatform.core.search_config import SearchConfig
from ftplatform.core.search_result import Trial


def over_cap(config: SearchConfig, trials: Sequence[Trial], hours: float, price: float, currency: str) -> str:
    """Why a trial of at most ``hours`` and ``price`` may not begin; empty when it may.

    Counted are what ended trials took and what running ones may take at most, so a cap holds as far as the plans' upper estimates do.
    """
    for name, cap, asked, unit in (
        ("max_hours", config.max_hours, hours, "hours"),
        ("max_price", config.max_price, price, currency),
    ):
        spent = sum(_counted(trial, name) for trial in trials)
        if cap is not None and spent + asked > cap:
            return f"{name} is {cap:g} {unit}: {spent:.4g} are spent or under way, and the next trial may take up to {asked:.4g}"
    return ""


def _counted(trial: Trial, name: str) -> float:
    running = trial.state == "running"
    if name == "max_hours":
        return max(trial.hours, trial.planned_hours) if running else trial.hours
    return max(trial.price, trial.planned_price) if running else trial.price
