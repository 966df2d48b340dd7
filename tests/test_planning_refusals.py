"""What is said where nothing works: the nearest plan, with what has to be given up for it named apart."""

from __future__ import annotations

import re
from typing import Any

import pytest
from plan_configs import CONFIGS

from ftplatform.core.errors import PlanRefused
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.choose import Choice, Request, choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.search import search
from ftplatform.planning.servable import servable
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape

CATALOGUE = load_hardware()
SHAPES = {name: ModelShape.from_config(config) for name, config in CONFIGS.items()}
LORA, QLORA = Setup(lora=LoraConfig()), Setup(lora=LoraConfig(), quantization="nf4")


def plan(model: str, *setups: Setup, tokens: float = 1e6, length: int = 2048, **wish: Any) -> Choice:
    return choose(Request(SHAPES[model], tokens, length, setups=setups, **wish), CATALOGUE)


def refused(model: str, *setups: Setup, **wish: Any) -> str:
    with pytest.raises(PlanRefused) as error:
        plan(model, *setups, **wish)
    return str(error.value)


def upper(text: str) -> tuple[float, float]:
    """The upper hours and the upper price of a described plan."""
    low, high, unit = re.findall(r"([\d.]+) to ([\d.]+) (hours|minutes)", text)[-1]
    assert float(low) < float(high)
    return float(high) / (60 if unit == "minutes" else 1), float(re.findall(r"to ([\d.]+) USD", text)[-1])


def test_money_and_time_are_offered_apart() -> None:
    text = refused("llama-3-8b", LORA, tokens=1e8, budget=16.5, deadline=1)
    more_money, more_time = text.split("nearest plan that works ")[1].split("; ")
    assert more_money.startswith("with more money: ")
    assert more_time.startswith("with more time: ")
    assert upper(more_money)[0] <= 1 < upper(more_time)[0]
    assert upper(more_time)[1] <= 16.5 < upper(more_money)[1]
    assert "with more time" in refused("llama-3-8b", LORA, tokens=1e8, budget=12, deadline=1), (
        "on interruptible machines"
    )
    assert "with more money and more time: " in refused("llama-3-70b", LORA, tokens=1e9, budget=3, deadline=0.5)


def test_a_missed_deadline_offers_the_fastest_that_the_budget_pays_for() -> None:
    request = Request(SHAPES["llama-3-8b"], 1e8, 2048, setups=(LORA,), budget=30, spot=False)
    text = refused("llama-3-8b", LORA, tokens=1e8, budget=30, deadline=0.05, spot=False)
    offered = text.split("with more time: ")[1]
    working = [option for option in search(request, CATALOGUE).seen if not option.why_not]
    fastest = min(option.hours[1] for option in working)
    assert upper(offered)[0] == pytest.approx(fastest, rel=0.05)
    assert upper(offered)[0] < min(working, key=lambda option: option.middle).hours[1]


def test_what_breaks_both_limits_says_both() -> None:
    text = refused("llama-3-8b", LORA, tokens=1e9, budget=1, deadline=1, gpu="h100-80", gpus=8)
    assert "the deadline is 1 hours; costs up to" in text


def test_the_nearest_is_what_lacks_least_in_proportion() -> None:
    request = Request(SHAPES["llama-3-8b"], 1e9, 2048, setups=(LORA,), deadline=0.5)
    found = search(request, CATALOGUE)
    late = [option for option in found.seen if option.limit == "deadline"]
    assert found.nearest is not None
    assert found.nearest.hours[1] == min(option.hours[1] for option in late)
    assert found.nearest.excess == pytest.approx(found.nearest.hours[1] / 0.5)


def test_another_method_on_other_hardware_is_offered_within_the_budget() -> None:
    """LoRA on a bf16 base of 70 billion weights costs more than four bits do, and neither fits the card that was asked for."""
    lora, qlora = (plan("llama-3-70b", setup, tokens=1e4).option.price[1] for setup in (LORA, QLORA))
    assert qlora < lora
    text = refused("llama-3-70b", LORA, tokens=1e4, gpu="l4", gpus=1, budget=(lora + qlora) / 2)
    assert "on other hardware: qlora" in text
    assert upper(text)[1] <= (lora + qlora) / 2


def test_a_length_above_the_context_is_answered_with_a_plan_at_the_context() -> None:
    assert "nearest plan that works, with length 4096: lora" in refused("llama-2-7b", LORA, length=8192)


def test_another_number_of_gpus_is_the_nearest_that_divides_the_batch() -> None:
    assert "another number of GPUs: lora rank 16 on a bf16 base, 8 x h100-80" in refused(
        "llama-3-8b", LORA, gpu="h100-80", gpus=6, batch=16
    )
    assert "another number of GPUs: lora rank 16 on a bf16 base, 5 x h100-80" in refused(
        "llama-3-8b", LORA, gpu="h100-80", gpus=6, batch=10
    )


@pytest.mark.parametrize("gpus", [3, 5, 6, 7])
def test_a_batch_that_was_not_asked_for_is_a_multiple_of_the_gpus(gpus: int) -> None:
    option = plan("llama-3-8b", LORA, gpu="h100-80", gpus=gpus).option
    assert option.layout.gpus == gpus
    assert Request(SHAPES["llama-3-8b"], 1e6, 2048, gpus=gpus).work.batch % gpus == 0


@pytest.mark.parametrize(
    ("rank", "init", "flag"), [(12, "default", 16), (48, "default", 64), (96, "pissa", 256), (512, "default", 512)]
)
def test_vllm_serves_every_rank_up_to_its_largest_and_the_plan_says_with_which_flag(
    rank: int, init: Any, flag: int
) -> None:
    found = plan("llama-3.2-1b", Setup(lora=LoraConfig(rank=rank, init_lora_weights=init)))
    assert any(f"--max-lora-rank {flag} " in reason for reason in found.reasons)
    embedded = plan("llama-3.2-1b", Setup(lora=LoraConfig(rank=rank, init_lora_weights=init)), engine="embedded")
    assert not any("max-lora-rank" in reason for reason in embedded.reasons)


def test_a_rank_above_vllms_largest_is_refused_with_the_largest() -> None:
    answer = servable(Setup(lora=LoraConfig(rank=257, init_lora_weights="pissa")))
    assert not answer.ok
    assert answer.nearest is not None
    assert answer.nearest.rank == 256


def test_only_what_was_chosen_is_called_the_cheapest() -> None:
    def where(found: Choice) -> str:
        (line,) = (reason for reason in found.reasons if "GB a GPU" in reason)
        return line

    assert ", as asked for: " in where(plan("llama-3-8b", LORA, gpu="h100-80", gpus=2))
    assert "is the cheapest of the h100-80 that fits" in where(plan("llama-3-8b", LORA, gpu="h100-80"))
    assert "is the cheapest with 2 GPU(s) that fits" in where(plan("llama-3-8b", LORA, gpus=2))
    assert "is the cheapest that fits" in where(plan("llama-3-8b", LORA))
