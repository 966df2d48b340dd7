"""The cheapest way that works among all there are, and what would work where none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ftplatform.core.methods import find_method
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.options import Measured, Option, Work, options
from ftplatform.planning.request import FULL, Request, candidates
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
        """The best; where nothing works, what lacks least: money or time, then memory, then a place."""
        if self.best is not None or not self.seen:
            return self.best
        if dear := [option for option in self.seen if option.limit in ("budget", "deadline")]:
            return min(dear, key=order)
        placed = [option for option in self.seen if option.limit != "placement"]
        return min(placed or self.seen, key=lambda option: (option.needed_gb / option.available_gb, option.middle))


def search(request: Request, catalogue: HardwareCatalogue, measured: Measured | None = None) -> Found:
    """``cost`` takes the cheapest of all setups; ``quality`` the first setup that can be had within the limits, as cheaply as
    possible.

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
            best = min((option for option in found if not option.why_not), key=order, default=None)
            if best or (last_resort and request.strategy):
                break
        if best:
            break
    return Found(request, work, setups, why, best, tuple(dict.fromkeys(seen)))


def order(option: Option) -> tuple[float, ...]:
    """Cheapest first, to the cent; then fewer GPUs, less time, less memory."""
    return (round(option.middle, 2), option.layout.gpus, option.hours[1], option.memory.total)


def refusal(found: Found, catalogue: HardwareCatalogue, measured: Measured | None = None) -> str:
    """Why nothing works, by the option that comes nearest, and the nearest plan that does."""
    nearest = found.nearest
    if nearest is None:
        asked = f"{found.request.gpus or 'any number of'} x {' or '.join(found.request.pins.among) or 'any GPU'}"
        text = (
            f"no way to place the job was found on {asked}: the batch must be a multiple of the GPUs, more GPUs than a node has need a "
            "network between nodes, and 8-bit optimizers and quantized weights are not sharded"
        )
    else:
        text = f"{nearest.name}: {nearest.why_not}"
    for words, changed in _changes(found):
        plan = search(changed, catalogue, measured).best
        if plan is not None:
            return f"{text}. The nearest plan that works {words}: {described(plan, catalogue.currency)}"
    return f"{text}. Nothing in the hardware catalogue does better: a smaller base model or a shorter length is needed"


def described(option: Option, currency: str) -> str:
    price = f"{option.price[0]:.2f} to {option.price[1]:.2f} {currency}"
    return f"{option.name}, {span(option.hours)}, {price}"


def _changes(found: Found) -> Iterator[tuple[str, Request]]:
    """What could be given up, least first."""
    request, setups = found.request, found.setups
    if all(setup.full for setup in setups):
        light = tuple(dict.fromkeys(_light(setup) for setup in setups))
        if not set(light) & set(setups):
            yield "on the same hardware", replace(request, setups=light)
    if request.strategy:
        yield "with another strategy", replace(request, strategy=None)
    if request.checkpointing is False:
        yield "with activation checkpointing", replace(request, checkpointing=None)
    if request.gpus:
        yield "on another number of GPUs", replace(request, gpus=None, strategy=None)
    if request.gpu or request.among or request.gpus or request.strategy:
        yield "on other hardware", replace(request, gpu=None, among=(), gpus=None, strategy=None)
    if find_method(setups[0].method).answers and any(s.full or s.quantization == "none" for s in setups):
        qlora = Setup(method=setups[0].method, group=setups[0].group, lora=LoraConfig(), quantization="nf4")
        if setups != (qlora,):
            yield "on the same hardware", replace(request, setups=(qlora,))
    if request.budget is not None or request.deadline is not None:
        yield "with more money or time", replace(request, budget=None, deadline=None)


def _light(setup: Setup) -> Setup:
    return replace(setup, weights=FULL[1].weights, optimizer=FULL[1].optimizer)


def _within(option: Option, request: Request, currency: str) -> Option:
    if option.why_not:
        return option
    if request.deadline is not None and option.hours[1] > request.deadline:
        why = f"takes {span(option.hours)}, and the deadline is {request.deadline:g} hours"
        return replace(option, limit="deadline", why_not=why)
    if request.budget is not None and option.price[1] > request.budget:
        why = f"costs up to {option.price[1]:.2f} {currency}, and the budget is {request.budget:g}"
        return replace(option, limit="budget", why_not=why)
    return option
