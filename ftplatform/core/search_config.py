"""A recipe's ``search``: which fields may take which values, how many trials, what they may cost."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import Field, model_validator

from ftplatform.core.frozen import Frozen

Objective = Literal["heldout", "eval_loss", "eval_reward"]
MAXIMIZED = ("heldout", "eval_reward")


class Range(Frozen):
    """Numbers from ``low`` to ``high``, both included; whole ones where the recipe's field is."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw on a logarithmic scale: for learning rates, and for whatever is doubled rather than added to."""
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high; found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0; found low {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other: leave one out, or list the values as choices")
        if self.step is not None and not _whole((self.high - self.low) / self.step):
            raise ValueError(f"high must be low plus whole steps; found {self.low} to {self.high} by {self.step}")
        return self


class Choices(Frozen):
    choices: tuple[Any, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _are_different(self) -> Choices:
        texts = [json.dumps(choice, sort_keys=True) for choice in self.choices]
        if len(set(texts)) < len(texts):
            raise ValueError(f"the choices must differ from each other; found {', '.join(texts)}")
        return self


class SearchConfig(Frozen):
    """A search for better values of some of the recipe's fields (``ft search``); a training alone ignores it."""

    space: dict[str, Range | Choices] = Field(min_length=1)
    """Dotted recipe field -> ``{low, high, log, step}`` or ``{choices}``."""
    trials: int = Field(20, ge=1, le=1000)
    """Trainings in all, those that are pruned or refused included."""
    objective: Literal["auto", "heldout", "eval_loss", "eval_reward"] = "auto"
    """``auto``: the score on the dataset's held-out conversations; where there are none, the loss on its validation rows, or the
    reward on them for methods that are taught by rewards.
    """
    pruner: Literal["asha", "none"] = "asha"
    """Asynchronous successive halving (arXiv:1810.05934): at a ninth and a third of its steps a trial goes on only if its figure on
    the validation rows is in the best third of those that came so far.
    """
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps of a trial; none means as many as the training itself."""
    max_hours: float | None = Field(None, gt=0)
    """Hours of payloads, over all trials; a trial whose upper estimate does not fit is not begun, and ends the search."""
    max_price: float | None = Field(None, gt=0)
    """The same in currency units of the hardware catalogue."""
    parallel: int = Field(1, ge=1, le=64)
    """Trials at a time, as far as the deployment has training slots; with 1 the same seed gives the same trials."""
    seed: int = Field(17, ge=0, le=2**31 - 1)


def _whole(value: float) -> bool:
    return math.isclose(value, round(value), rel_tol=1e-9, abs_tol=1e-9)
