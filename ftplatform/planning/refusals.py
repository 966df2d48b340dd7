"""Why nothing works, and the nearest plan that does: what would have to be given up for it, least first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ftplatform.core.methods import find_method
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.options import COUNTS, Measured, Option
from ftplatform.planning.request import FULL, Request
from ftplatform.planning.search import Found, by_time, order, search
from ftplatform.planning.servable import servable
from ftplatform.planning.setup import Setup
from ftplatform.planning.speed import span

_HERE, _ELSEWHERE = "on the same hardware", "on other hardware"


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
    if plans := _relaxed(found.request, catalogue, measured):
        return f"{text}. The nearest plan that works {'; '.join(plans)}"
    return f"{text}. Nothing in the hardware catalogue does better: a smaller base model or a shorter length is needed"


def too_long(request: Request, catalogue: HardwareCatalogue, measured: Measured | None = None) -> str:
    """The end of a sentence: the plan for sequences as long as the base model takes them; empty where that does not work either."""
    most = request.shape.max_length
    plan = search(replace(request, length=most), catalogue, measured).best
    return f". The nearest plan that works, with length {most}: {described(plan, catalogue.currency)}" if plan else ""


def nearest_servable(request: Request, catalogue: HardwareCatalogue, measured: Measured | None = None) -> str:
    """The end of a sentence: the plan with what the engine refuses changed as little as it takes; empty where nothing helps."""
    changed = tuple(nearest for setup in request.setups if (nearest := servable(setup, request.engine).nearest))
    plan = search(replace(request, setups=changed), catalogue, measured).best if changed else None
    return f". The nearest plan that works: {described(plan, catalogue.currency)}" if plan else ""


def described(option: Option, currency: str) -> str:
    price = f"{option.price[0]:.2f} to {option.price[1]:.2f} {currency}"
    return f"{option.name}, {span(option.hours)}, {price}"


def _changes(found: Found) -> Iterator[tuple[str, Request]]:
    """What could be given up with budget and deadline as they are, least first."""
    request, setups = found.request, found.setups
    anywhere = replace(request, gpu=None, among=(), gpus=None, strategy=None)
    placed = bool(request.gpu or request.among or request.gpus or request.strategy)
    light = tuple(dict.fromkeys(_light(setup) for setup in setups)) if all(setup.full for setup in setups) else ()
    light = () if set(light) & set(setups) else light
    if light:
        yield _HERE, replace(request, setups=light)
    if request.strategy:
        yield "with another strategy", replace(request, strategy=None)
    if request.checkpointing is False:
        yield "with activation checkpointing", replace(request, checkpointing=None)
    for count in _counts(request):
        yield "on another number of GPUs", replace(request, gpus=count, strategy=None)
    if placed:
        yield _ELSEWHERE, anywhere
        if light:
            yield _ELSEWHERE, replace(anywhere, setups=light)
    if find_method(setups[0].method).answers and any(s.full or s.quantization == "none" for s in setups):
        qlora = Setup(method=setups[0].method, group=setups[0].group, lora=LoraConfig(), quantization="nf4")
        if setups != (qlora,):
            yield _HERE, replace(request, setups=(qlora,))
            if placed:
                yield _ELSEWHERE, replace(anywhere, setups=(qlora,))


def _counts(request: Request) -> list[int]:
    """Other numbers of GPUs, the nearest first, and of two as near the greater: those of the catalogue's machines, and what a batch
    that was asked for can be divided by.
    """
    if not request.gpus:
        return []
    counts = {count for count in range(1, COUNTS[-1] + 1) if request.batch and request.batch % count == 0} or set(
        COUNTS
    )
    return sorted(counts - {request.gpus}, key=lambda count: (abs(count - (request.gpus or 0)), -count))


def _relaxed(request: Request, catalogue: HardwareCatalogue, measured: Measured | None) -> list[str]:
    """Plans with more money, with more time (the fastest that the budget pays for), or else with both."""
    dearer, later = replace(request, budget=None), replace(request, deadline=None)
    found: list[str] = []

    def offer(words: str, changed: Request, first: Callable[[Option], tuple[float, ...]] = order) -> bool:
        plan = search(changed, catalogue, measured, first).best
        if plan is not None:
            found.append(f"{words}: {described(plan, catalogue.currency)}")
        return plan is not None

    if request.budget is not None:
        offer("with more money", dearer)
    # Without a deadline machines are interruptible ones where nobody said: slower, for when the others are too dear.
    steady = replace(later, spot=request.pins.spot)
    if request.deadline is not None and not offer("with more time", steady, by_time):
        offer("with more time", later, by_time)
    if not found:
        offer("with more money and more time", replace(later, budget=None))
    return found


def _light(setup: Setup) -> Setup:
    return replace(setup, weights=FULL[1].weights, optimizer=FULL[1].optimizer)
