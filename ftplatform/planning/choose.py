"""Click-to-tune: the cheapest plan that reaches the target, why it was chosen, and why each cheaper choice was not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ftplatform.core.errors import PlanRefused
from ftplatform.core.recipe import LoraConfig, Strategy
from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.memory import STRATEGIES
from ftplatform.planning.options import Measured, Option, Work, options
from ftplatform.planning.servable import VLLM_RANKS, Engine, servable
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import FILL, span

Target = Literal["cost", "quality"]
STEP_TOKENS = 32768
"""Positions per optimizer step: between the 16k of small instruction sets and the 64k and more of pre-training mixes."""
LEAST_STEPS = 100
"""Fewer steps than this barely warm up; the batch is halved until they are reached, to four sequences."""
BITS_PER_WEIGHT = 2.0
"""What a LoRA weight can hold, about two bits (Schulman et al. 2025, LoRA Without Regret), against about one bit of news per trained
token: the rank grows with the data, and beyond the largest rank full weights learn more.
"""
LARGEST_RANK = 256
FULL = (Setup("full"), Setup("full", weights="bf16", optimizer="adamw_8bit"))
"""Full weights, best first: fp32 with AdamW; bf16 weights and gradients with 8-bit states, which lose small updates."""


@dataclass(frozen=True, slots=True)
class Request:
    shape: ModelShape
    tokens: float
    """Tokens of the training rows, once."""
    length: int
    """Tokens per packed sequence."""
    epochs: float | None = None
    """None takes three for less than 10 million tokens, two for less than 100 million, else one."""
    batch: int | None = None
    """Packed sequences per optimizer step; None chooses."""
    setups: tuple[Setup, ...] = ()
    """What may be trained, best first; empty chooses. Several are tried in this order."""
    target: Target = "cost"
    budget: float | None = None
    """Most that the upper price may be, in the catalogue's currency."""
    deadline: float | None = None
    """Hours that the upper duration may be."""
    gpu: str | None = None
    gpus: int | None = None
    strategy: Strategy | None = None
    spot: bool | None = None
    """None takes spot for the target ``cost`` without a deadline."""
    engine: Engine = "vllm"
    labelled: float = 1.0
    """Share of positions that carry loss."""


@dataclass(frozen=True, slots=True)
class Choice:
    option: Option
    epochs: float
    learning_rate: float
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

    ``cost`` takes the cheapest of all allowed setups; ``quality`` the best setup that can be had within budget and deadline, as
    cheaply as possible.

    Raises:
        PlanRefused: nothing fits memory, budget and deadline, or the engine would refuse the result. The message ends with the
            nearest plan that works.
        NotFound: hardware that is not in the catalogue.
    """
    if request.length > request.shape.max_length:
        raise PlanRefused(
            f"length {request.length} is above the {request.shape.max_length} tokens of this base model: "
            f"accepted is at most {request.shape.max_length}"
        )
    epochs = request.epochs or (3 if request.tokens < 1e7 else 2 if request.tokens < 1e8 else 1)
    work = _work(request, epochs)
    setups, why_setups = (request.setups, "") if request.setups else _candidates(request, epochs)
    _refuse_unservable(request, setups, catalogue)
    spot = request.target == "cost" and request.deadline is None if request.spot is None else request.spot

    seen: list[Option] = []
    best: Option | None = None
    groups = [setups] if request.target == "cost" else [(setup,) for setup in setups]
    # Offload is for where nothing else fits: the host's rates differ between providers by more than the prices do.
    for last_resort in (False, True):
        for group in groups:
            found = [
                _within(option, request, catalogue.currency)
                for setup in group
                for option in options(
                    work,
                    setup,
                    catalogue,
                    gpu=request.gpu,
                    gpus=request.gpus,
                    strategy=request.strategy,
                    spot=spot,
                    measured=measured,
                )
                if (option.layout.strategy == "offload") == (last_resort and request.strategy is None)
                or option.layout.strategy == request.strategy
            ]
            seen += found
            best = min((option for option in found if not option.why_not), key=_order, default=None)
            if best:
                break
        if best:
            break
    if best is None:
        raise PlanRefused(_refusal(request, seen, catalogue))
    untried = [setup for setup in setups if not any(option.setup == setup for option in seen)]
    return Choice(
        option=best,
        epochs=epochs,
        learning_rate=learning_rate(best.setup, work.shape),
        servable=True,
        reasons=_reasons(request, work, best, epochs, why_setups, spot, catalogue, measured),
        rejected=_rejected(work, best, seen, untried, catalogue),
    )


def learning_rate(setup: Setup, shape: ModelShape) -> float:
    """Peak learning rate. Full weights: 2e-5 below 10 billion weights, 1e-5 above, as the base models' own recipes; LoRA ten times as
    much (Schulman et al. 2025); the few weights of prompt, prefix and IA3 more still (Lester et al. 2021, Liu et al. 2022).
    """
    full = 2e-5 if shape.parameters < 1e10 else 1e-5
    return {"full": full, "lora": 10 * full, "ia3": 5e-3, "prefix": 1e-2, "prompt": 3e-2}[setup.parameterisation]


def _work(request: Request, epochs: float) -> Work:
    batch = request.batch or 1
    if request.batch is None:
        while batch * 2 * request.length <= STEP_TOKENS and batch < 256:
            batch *= 2
        while batch > 4 and request.tokens * epochs / (batch * request.length) < LEAST_STEPS:
            batch //= 2
        # Every GPU needs a sequence of its own.
        batch = max(batch, request.gpus or 1)
        if request.shape.parameters > 3e10 and request.gpus is None:
            # Models that may need four nodes get a batch that four nodes can divide.
            batch = max(batch, 32)
    return Work(request.shape, request.tokens * epochs / FILL, request.length, batch, request.labelled)


def _candidates(request: Request, epochs: float) -> tuple[tuple[Setup, ...], str]:
    """Setups worth having for this much data, best first, and the sentence that says so."""
    base = Setup(lora=LoraConfig())
    one = trained_parameters(base.with_rank(1), request.shape)
    needed = request.tokens / BITS_PER_WEIGHT / one
    rank = next((r for r in VLLM_RANKS if r >= 16 and r >= needed), LARGEST_RANK)
    rank = min(rank, LARGEST_RANK)
    lora = base.with_rank(rank)
    adapters = (lora, replace(lora, quantization="nf4"))
    said = (
        f"Rank {rank} holds about {BITS_PER_WEIGHT * rank * one / 1e6:.0f} million bits, and {request.tokens / 1e6:.1f} million tokens "
        "bring about one bit each"
    )
    if needed > LARGEST_RANK and request.target == "quality":
        return (*FULL, *adapters), f"{said}: more than an adapter can learn, so full weights come first."
    if request.target == "quality":
        return adapters, f"{said}: an adapter learns that as well as full weights do, and forgets less."
    return adapters, f"{said}: an adapter is enough, and full weights would cost several times its memory."


def _within(option: Option, request: Request, currency: str) -> Option:
    if option.why_not:
        return option
    if request.deadline is not None and option.hours[1] > request.deadline:
        return replace(option, why_not=f"takes {span(option.hours)}, and the deadline is {request.deadline:g} hours")
    if request.budget is not None and option.price[1] > request.budget:
        return replace(
            option, why_not=f"costs up to {option.price[1]:.2f} {currency}, and the budget is {request.budget:g}"
        )
    return option


def _order(option: Option) -> tuple[float, ...]:
    return (round(option.middle, 2), option.layout.gpus, option.hours[1], option.memory.total)


def _refuse_unservable(request: Request, setups: Iterable[Setup], catalogue: HardwareCatalogue) -> None:
    for setup in setups:
        answer = servable(setup, request.engine)
        if answer.ok:
            continue
        nearest = ""
        if answer.nearest is not None:
            plan = choose(replace(request, setups=(answer.nearest,)), catalogue)
            nearest = f". The nearest plan that works: {plan.option.name}, {span(plan.option.hours)}"
        raise PlanRefused(f"{setup.words} could not be served: {answer.why}{nearest}")


def _refusal(request: Request, seen: list[Option], catalogue: HardwareCatalogue) -> str:
    """Why nothing works, by the option that came nearest, and what would."""
    currency = catalogue.currency
    if not seen:
        asked = f"{request.gpus or 'any number of'} x {request.gpu or 'any GPU'}"
        return (
            f"no way to place the job was found on {asked}: the batch must be a multiple of the GPUs, more GPUs than a node has need a "
            "network between nodes, and 8-bit optimizers and quantized weights are not sharded"
        )
    nearest = min(seen, key=lambda option: (option.memory.total / option.available_gb, option.middle))
    slow = [option for option in seen if option.memory.total <= option.available_gb]
    if slow:
        nearest = min(slow, key=_order)
    text = f"{nearest.name}: {nearest.why_not}"
    changes: list[tuple[str, Request]] = []
    if request.setups and all(setup.full for setup in request.setups) and FULL[1] not in request.setups:
        changes.append(("on the same hardware", replace(request, setups=FULL[1:])))
    if request.gpu or request.gpus or request.strategy:
        changes.append(("on other hardware", replace(request, gpu=None, gpus=None, strategy=None)))
    if not request.setups or any(setup.full or setup.quantization == "none" for setup in request.setups):
        qlora = Setup(lora=LoraConfig(), quantization="nf4")
        if request.setups != (qlora,):
            changes.append(("on the same hardware", replace(request, setups=(qlora,))))
    if request.budget is not None or request.deadline is not None:
        changes.append(("with more money or time", replace(request, budget=None, deadline=None)))
    for words, changed in changes:
        try:
            found = choose(changed, catalogue).option
        except PlanRefused:
            continue
        return (
            f"{text}. The nearest plan that works {words}: {found.name}, {span(found.hours)}, "
            f"{found.price[0]:.2f} to {found.price[1]:.2f} {currency}"
        )
    return f"{text}. Nothing in the hardware catalogue does better: a smaller base model or a shorter length is needed"


def _reasons(
    request: Request,
    work: Work,
    best: Option,
    epochs: float,
    why_setups: str,
    spot: bool,
    catalogue: HardwareCatalogue,
    measured: Measured | None,
) -> tuple[str, ...]:
    setup, layout, shape = best.setup, best.layout, work.shape
    trained = trained_parameters(setup, shape)
    said = [why_setups] if why_setups else []
    said.append(f"{trained:,} of {shape.parameters:,} weights are trained: {setup.words}.")
    said.append(
        f"{layout.gpus} x {best.gpu} on {best.nodes} node(s) is the cheapest that fits and keeps to the limits: "
        f"{best.memory.total:.1f} GB of {best.available_gb:g} GB a GPU, {STRATEGIES[layout.strategy]}."
    )
    checkpoint = (
        "activations are computed again in the backward pass, because keeping them does not fit"
        if layout.checkpointing
        else "activations are kept, because they fit"
    )
    said.append(
        f"Micro-batch {layout.micro_batch} x {layout.accumulation} accumulation x {layout.gpus} GPU(s) = {work.batch} sequences of "
        f"{work.length} tokens a step; {checkpoint}."
    )
    said.append(f"Learning rate {learning_rate(setup, shape):g}, {epochs:g} epoch(s) of {request.tokens:,.0f} tokens.")
    rate = catalogue.get(best.gpu).hourly(gpus=layout.gpus, spot=best.spot)
    basis = (
        "what finished jobs measured"
        if measured and measured(setup, work.length, best.gpu)
        else "the catalogue's rates"
    )
    kind = "interruptible machines: a checkpoint resumes them" if best.spot else "on demand"
    said.append(f"{span(best.hours)} by {basis}, at {rate:g} {catalogue.currency} an hour ({kind}).")
    return tuple(said)


def _rejected(
    work: Work, best: Option, seen: list[Option], untried: list[Setup], catalogue: HardwareCatalogue
) -> tuple[dict[str, str], ...]:
    """Cheaper machines, simpler strategies, and setups that lost, each once."""
    rate = _rate(best, catalogue)
    others = [option for option in seen if option is not best]
    machines: dict[str, list[Option]] = {}
    setups: dict[Setup, list[Option]] = {}
    smaller: dict[int, list[Option]] = {}
    for option in others:
        if option.gpu != best.gpu and _rate(option, catalogue) < rate:
            machines.setdefault(option.gpu, []).append(option)
        if option.setup != best.setup:
            setups.setdefault(option.setup, []).append(option)
        elif option.gpu == best.gpu and option.layout.gpus < best.layout.gpus:
            smaller.setdefault(option.layout.gpus, []).append(option)
    simpler = [o for o in others if (o.setup, o.gpu, o.layout.gpus) == (best.setup, best.gpu, best.layout.gpus)]
    groups = [*smaller.values(), *setups.values(), *machines.values()]
    found: dict[str, str] = {}
    for option in [*simpler, *(_nearest(group) for group in groups)]:
        found.setdefault(option.name, option.why_not or _dearer(option, best, catalogue.currency))
    for setup in untried:
        found.setdefault(setup.words, "would learn less from this data, and the better choice is within the limits")
    if best.setup != Setup("full", best.setup.method):
        found.setdefault(*_full_weights(work, best))
    return tuple({"option": option, "why": why} for option, why in found.items())


def _nearest(options: list[Option]) -> Option:
    """The cheapest that works, else the one that lacks least memory."""
    working = [option for option in options if not option.why_not]
    return min(working, key=_order) if working else min(options, key=lambda o: o.memory.total / o.available_gb)


def _dearer(option: Option, best: Option, currency: str) -> str:
    cost = f"{option.price[0]:.2f} to {option.price[1]:.2f} {currency} in {span(option.hours)}"
    if option.middle < best.middle:
        return f"would cost {cost}, but the setup is the lesser one for this target"
    return f"costs {cost}, against {best.price[0]:.2f} to {best.price[1]:.2f}"


def _full_weights(work: Work, best: Option) -> tuple[str, str]:
    # Rajbhandari et al. 2020, section 3.1.
    states = 16 * work.shape.parameters / 1e9
    setup = Setup("full")
    against = "more than" if states > best.available_gb else "before activations, of"
    return (
        f"{setup.words}, 1 x {best.gpu}, single",
        f"AdamW in mixed precision needs 16 bytes a weight, {states:.1f} GB, {against} the {best.available_gb:g} GB of a {best.gpu}",
    )


def _rate(option: Option, catalogue: HardwareCatalogue) -> float:
    return catalogue.get(option.gpu).hourly(gpus=option.layout.gpus, spot=option.spot)
