"""Why a plan is as it is, and why each cheaper choice is not, in sentences."""

from __future__ import annotations

from ftplatform.core.methods import find_method
from ftplatform.planning.hardware import HardwareCatalogue
from ftplatform.planning.memory import STRATEGIES
from ftplatform.planning.options import Measured, Option, Pins, Work
from ftplatform.planning.search import Found, order
from ftplatform.planning.servable import Engine, servable
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import span


def what_is_trained(setup: Setup, shape: ModelShape) -> tuple[str, ...]:
    """Sentences: how many weights, and what is not as it may seem."""
    said = [f"{trained_parameters(setup, shape):,} of {shape.parameters:,} weights are trained: {setup.words}."]
    if setup.method == "distillation" and not setup.teacher:
        said.append("The teacher is not counted, as its size is not known here: a plan with a dataset counts it.")
    if shape.left_out:
        said.append(shape.left_out)
    if setup.quantization != "none" and shape.experts is not None:
        share = shape.quantizable / shape.parameters
        said.append(
            f"Only {share:.0%} of the weights are quantized: bitsandbytes takes linear layers, and the experts are parameters of three "
            f"dimensions, which stay in {setup.precision}."
        )
    return tuple(said)


def where_it_runs(best: Option, pins: Pins, pinned: str = "as asked for") -> str:
    """``pinned`` says why it was the only choice, where type and number were not the planner's to choose."""
    layout = best.layout
    what = f"{layout.gpus} x {best.gpu} on {best.nodes} node(s)"
    if best.why_not:
        what += " comes nearest, and does not work"
    elif len(pins.among) == 1 and pins.gpus:
        what += f", {pinned}"
    else:
        among = f" of the {best.gpu}" if len(pins.among) == 1 else f" with {pins.gpus} GPU(s)" if pins.gpus else ""
        what += f" is the cheapest{among} that fits and keeps to the limits"
    corrected = f", {best.needed_gb:.1f} GB by what finished jobs measured" if round(best.correction, 2) != 1 else ""
    return f"{what}: {best.memory.total:.1f} GB of {best.available_gb:g} GB a GPU{corrected}, {STRATEGIES[layout.strategy]}."


def how_a_step_is_cut(best: Option, work: Work, unit: str, checkpointing: bool | None = None) -> str:
    """``checkpointing`` is what was asked for; None left it to the planner."""
    layout = best.layout
    done = "activations are computed again in the backward pass" if layout.checkpointing else "activations are kept"
    why = "as asked for" if checkpointing is not None else "because keeping them does not fit"
    if not layout.checkpointing and checkpointing is None:
        why = "because they fit"
    return (
        f"Micro-batch {layout.micro_batch} x {layout.accumulation} accumulation x {layout.gpus} GPU(s) = "
        f"{layout.micro_batch * layout.accumulation * layout.gpus} {unit} of at most {work.length} tokens a step; {done}, {why}."
    )


def what_it_costs(best: Option, work: Work, catalogue: HardwareCatalogue, measured: Measured | None) -> str:
    known = measured(best.setup, work.length, best.gpu) if measured else None
    basis = f"what {known.jobs} finished jobs and probes measured" if known else "the catalogue's rates"
    rate = catalogue.get(best.gpu).hourly(gpus=best.layout.gpus, spot=best.spot)
    kind = "interruptible machines: a checkpoint resumes them" if best.spot else "on demand"
    return f"{span(best.hours)} by {basis}, at {rate:g} {catalogue.currency} an hour ({kind})."


def how_it_is_served(setup: Setup, engine: Engine) -> tuple[str, ...]:
    """What vLLM has to be started with for an adapter; nothing where no engine needs to be told anything."""
    if engine != "vllm" or setup.full or not find_method(setup.method).answers:
        return ()
    return (f"{servable(setup, engine).why}.",)


def rejected(found: Found, catalogue: HardwareCatalogue) -> tuple[dict[str, str], ...]:
    """Cheaper machines, simpler strategies, and setups that lost, each once, as {option, why}."""
    best = found.best
    if best is None:
        return ()
    rate = _rate(best, catalogue)
    others = [option for option in found.seen if option is not best]
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
    said: dict[str, str] = {}
    for option in [*simpler, *(_nearest(group) for group in groups)]:
        said.setdefault(option.name, option.why_not or _dearer(option, best, catalogue.currency))
    for setup in found.setups:
        if not any(option.setup == setup for option in found.seen):
            said.setdefault(setup.words, "would learn less from this data, and the better choice is within the limits")
    return tuple({"option": option, "why": why} for option, why in said.items())


def full_weights(found: Found) -> dict[str, str]:
    """What all weights in mixed precision would need on one of the chosen cards: the question everybody asks."""
    best = found.best
    assert best is not None
    # Rajbhandari et al. 2020, section 3.1.
    states = 16 * found.work.shape.parameters / 1e9
    against = "more than" if states > best.available_gb else "before activations, of"
    return {
        "option": f"{Setup('full').words}, 1 x {best.gpu}, single",
        "why": f"AdamW in mixed precision needs 16 bytes a weight, {states:.1f} GB, {against} the {best.available_gb:g} GB of a {best.gpu}",
    }


def _nearest(options: list[Option]) -> Option:
    """The cheapest that works, else the one that lacks least memory."""
    working = [option for option in options if not option.why_not]
    return min(working, key=order) if working else min(options, key=lambda o: o.excess)


def _dearer(option: Option, best: Option, currency: str) -> str:
    cost = f"{option.price[0]:.2f} to {option.price[1]:.2f} {currency} in {span(option.hours)}"
    if option.middle < best.middle:
        return f"would cost {cost}, but the setup is the lesser one for this target"
    return f"costs {cost}, against {best.price[0]:.2f} to {best.price[1]:.2f}"


def _rate(option: Option, catalogue: HardwareCatalogue) -> float:
    return catalogue.get(option.gpu).hourly(gpus=option.layout.gpus, spot=option.spot)
