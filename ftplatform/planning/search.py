"""The cheapest way that works among all there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.options import Limit, Measured, Option, Work, options
from ftplatform.planning.request import Request, candidates
from ftplatform.planning.setup import Setup
from ftplatform.planning.speed import span


@dataclass(frozen=True, slots=True)
class Found:
    request: Request
    work: Work
    setups: tuple[Setup, ...]
    why_setups: str
    """Why these setups were tried; empty where they were asked for."""
    best: Option | None
    seen: tuple[Option, ...]
    """Everything that was looked at, what does not work included."""

    @property
    def nearest(self) -> Option | None:
        """The best; where nothing works, what lacks least in proportion: of money or time, then of memory, then a place."""
        if self.best is not None or not self.seen:
            return self.best
        if dear := [option for option in self.seen if option.limit in ("budget", "deadline")]:
            return min(dear, key=lambda option: (option.excess, *order(option)))
        placed = [option for option in self.seen if option.limit != "placement"]
        return min(placed or self.seen, key=lambda option: (max(1.0, option.excess), option.middle))


def order(option: Option) -> tuple[float, ...]:
    """Cheapest first, to the cent; then fewer GPUs, less time, less memory."""
    return (round(option.middle, 2), option.layout.gpus, option.hours[1], option.memory.total)


def by_time(option: Option) -> tuple[float, ...]:
    """Fastest first, by the upper duration."""
    return (option.hours[1], *order(option))


def search(
    request: Request,
    catalogue: HardwareCatalogue,
    measured: Measured | None = None,
    first: Callable[[Option], tuple[float, ...]] = order,
) -> Found:
    """``cost`` takes the cheapest of all setups; ``quality`` the first setup that can be had within the limits, as cheaply as
    possible. ``first`` sorts what works; the first is the best.

    Raises:
        NotFound: hardware that is not in the catalogue.
        PlanRefused: LoRA targets the model does not have.
    """
    work, (setups, why) = request.work, candidates(request)
    seen: list[Option] = []
    groups = [setups] if request.target == "cost" else [(setup,) for setup in setups]
    # Offload is for where nothing else fits: the host's rates differ between providers by more than the prices do.
    for last_resort in (False, True):
        for group in groups:
            found = [
                _within(option, request, catalogue.currency)
                for setup in group
                for option in options(work, setup, catalogue, request.pins, measured)
                if request.strategy or (option.layout.strategy == "offload") == last_resort
            ]
            seen += found
            best = min((option for option in found if not option.why_not), key=first, default=None)
            if best or (last_resort and request.strategy):
                break
        if best:
            break
    return Found(request, work, setups, why, best, tuple(dict.fromkeys(seen)))


def _within(option: Option, request: Request, currency: str) -> Option:
    if option.why_not:
        return option
    broken: list[tuple[float, Limit, str]] = []
    if request.deadline is not None and option.hours[1] > request.deadline:
        why = f"takes {span(option.hours)}, and the deadline is {request.deadline:g} hours"
        broken.append((option.hours[1] / request.deadline, "deadline", why))
    if request.budget is not None and option.price[1] > request.budget:
        why = f"costs up to {option.price[1]:.2f} {currency}, and the budget is {request.budget:g}"
        broken.append((option.price[1] / request.budget, "budget", why))
    if not broken:
        return option
    excess, limit, _ = max(broken)
    return replace(option, limit=limit, why_not="; ".join(why for _, _, why in broken), excess=excess)
