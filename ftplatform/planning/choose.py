"""Click-to-tune: the cheapest plan that reaches the target, why it was chosen, and why each cheaper choice was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftplatform.core.errors import PlanRefused
from ftplatform.planning import explain
from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.options import Measured, Option
from ftplatform.planning.rates import learning_rate
from ftplatform.planning.refusals import nearest_servable, refusal, too_long
from ftplatform.planning.request import FULL, Request
from ftplatform.planning.search import Found, search
from ftplatform.planning.servable import servable

__all__ = ["FULL", "Choice", "Request", "choose"]


@dataclass(frozen=True, slots=True)
class Choice:
    option: Option
    epochs: float
    max_steps: int | None
    learning_rate: float
    length: int
    servable: bool
    reasons: tuple[str, ...]
    rejected: tuple[dict[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """What ``ft plan --json`` prints."""
        option, layout = self.option, self.option.layout
        return {
            "method": option.setup.name,
            "gpu": option.gpu,
            "gpus": layout.gpus,
            "nodes": option.nodes,
            "strategy": layout.strategy,
            "micro_batch": layout.micro_batch,
            "accumulation": layout.accumulation,
            "memory_gb": option.memory.model_dump(),
            "hours": list(option.hours),
            "price": list(option.price),
            "servable": self.servable,
            "reasons": list(self.reasons),
            "rejected": list(self.rejected),
        }


def choose(request: Request, catalogue: HardwareCatalogue, measured: Measured | None = None) -> Choice:
    """The plan for a request.

    Raises:
        PlanRefused: nothing fits memory, budget and deadline, or the engine would refuse the result. The message ends with the
            nearest plan that works.
        NotFound: hardware that is not in the catalogue.
    """
    if request.length > request.shape.max_length:
        raise PlanRefused(
            f"length {request.length} is above the {request.shape.max_length} tokens of this base model: "
            f"accepted is at most {request.shape.max_length}{too_long(request, catalogue, measured)}"
        )
    for setup in request.setups:
        answer = servable(setup, request.engine)
        if not answer.ok:
            nearest = nearest_servable(request, catalogue, measured)
            raise PlanRefused(f"{setup.words} could not be served: {answer.why}{nearest}")
    found = search(request, catalogue, measured)
    best = found.best
    if best is None:
        raise PlanRefused(refusal(found, catalogue, measured))
    rejected = list(explain.rejected(found, catalogue))
    if not (best.setup.full and best.setup.weights == "fp32"):
        full = explain.full_weights(found)
        rejected += [full] if full["option"] not in [row["option"] for row in rejected] else []
    rate = request.learning_rate or learning_rate(best.setup, request.shape)
    return Choice(
        option=best,
        epochs=request.all_epochs,
        max_steps=request.max_steps,
        learning_rate=rate,
        length=request.length,
        servable=True,
        reasons=_reasons(found, best, rate, catalogue, measured),
        rejected=tuple(rejected),
    )


def _reasons(
    found: Found, best: Option, rate: float, catalogue: HardwareCatalogue, measured: Measured | None
) -> tuple[str, ...]:
    request, work = found.request, found.work
    amount = f"{request.all_epochs:g} epoch(s) of {request.tokens:,.0f} tokens"
    if request.max_steps:
        amount = f"{request.max_steps:,} steps, as asked for"
    return (
        *([found.why_setups] if found.why_setups else []),
        *explain.what_is_trained(best.setup, work.shape),
        *([request.why_length] if request.why_length else []),
        explain.where_it_runs(best, request.pins),
        explain.how_a_step_is_cut(best, work, "sequences", request.checkpointing),
        f"Learning rate {rate:g}, {amount}.",
        explain.what_it_costs(best, work, catalogue, measured),
        *explain.how_it_is_served(best.setup, request.engine),
    )
