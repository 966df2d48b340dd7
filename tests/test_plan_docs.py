"""The ten requests of docs/cost.md are what the planner answers, and their arithmetic adds up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from plan_configs import CONFIGS

from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.choose import FULL, Choice, Request, choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import FILL, flops_per_token

CATALOGUE = load_hardware()
LORA = (Setup(lora=LoraConfig()),)
QLORA = (Setup(lora=LoraConfig(), quantization="nf4"),)
REQUESTS: tuple[tuple[str, float, int, dict[str, Any]], ...] = (
    ("llama-3.2-1b", 1e6, 1024, {}),
    ("llama-2-7b", 2e6, 2048, {"setups": LORA, "gpu": "rtx3090", "gpus": 1}),
    ("qwen-2.5-7b", 2e6, 2048, {"setups": QLORA, "gpu": "l4", "gpus": 1}),
    ("llama-2-7b", 2e6, 2048, {"setups": FULL, "gpu": "a100-80", "gpus": 1}),
    ("llama-2-13b", 5e6, 2048, {"setups": LORA, "gpu": "a100-40", "gpus": 1}),
    ("gemma-2-9b", 5e6, 4096, {"gpu": "h100-80"}),
    ("llama-3-8b", 1e8, 4096, {"deadline": 4}),
    ("llama-3-8b", 2e6, 2048, {"setups": (Setup(method="dpo", lora=LoraConfig()),), "gpu": "h100-80", "gpus": 1}),
    ("llama-3-70b", 1e7, 2048, {"setups": LORA, "gpu": "h100-80", "gpus": 8}),
    ("llama-2-70b", 1e7, 2048, {"setups": FULL[:1], "gpu": "h100-80"}),
)


def row(number: int) -> tuple[str, str]:
    """The line of the table, and the line of arithmetic."""
    model, tokens, length, wish = REQUESTS[number - 1]
    shape = ModelShape.from_config(CONFIGS[model])
    found: Choice = choose(Request(shape, tokens, length, **wish), CATALOGUE)
    option, layout, memory = found.option, found.option.layout, found.option.memory
    asked = f"{model}, {tokens / 1e6:g} M tokens, length {length}"
    if "deadline" in wish:
        asked += f", deadline {wish['deadline']} h"
    checkpointing = ", checkpointing" if layout.checkpointing else ""
    table = (
        f"| {number} | {asked} | {option.setup.words} | {layout.gpus} x `{option.gpu}`, {layout.strategy}, "
        f"{layout.micro_batch} x {layout.accumulation}{checkpointing} | {memory.total:.1f} of {option.available_gb:g} | "
        f"{option.hours[0]:.2f} to {option.hours[1]:.2f} | {option.price[0]:.2f} to {option.price[1]:.2f} |"
    )
    device = CATALOGUE.get(option.gpu)
    flops = flops_per_token(shape, option.setup, length, checkpointing=layout.checkpointing)
    pairs = 2 if option.setup.method == "dpo" else 1
    positions = tokens * found.epochs * pairs / FILL
    terms = [memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.logits, memory.other]
    rate = device.hourly(gpus=layout.gpus, spot=option.spot)
    best = positions * flops / (device.bf16_tflops * 1e12 * layout.gpus * 0.45) / 3600
    arithmetic = (
        f"{number}. {' + '.join(f'{term:.1f}' for term in terms)} = {memory.total:.1f} GB. "
        f"{positions / 1e6:.2f} M positions x {flops / 1e9:.1f} GFLOP / ({layout.gpus} x {device.bf16_tflops:g} TFLOPS x 0.45) = "
        f"{best:.2f} h"
    )
    if option.nodes > 1:
        # Each GPU receives all weights twice and sends all gradients once per step, in bf16, through its share of the network.
        steps = positions / (32 * length)
        each = device.network_gb_s / 8
        best = steps * 6 * shape.parameters / 1e9 * 31 / 32 / each / 3600
        arithmetic += (
            f", but the network takes longer: {steps:.0f} steps x {6 * shape.parameters / 1e9:.0f} GB x 31/32 / {each:g} GB/s = "
            f"{best:.2f} h"
        )
    return table, f"{arithmetic}; x {rate:.2f} an hour = {best * rate:.2f}."


@pytest.mark.parametrize("number", range(1, len(REQUESTS) + 1))
def test_a_request_of_the_page_is_answered_as_it_says(number: int) -> None:
    page = (Path(__file__).parent.parent / "docs" / "cost.md").read_text()
    for line in row(number):
        assert line in page


BY_HAND = {
    2: ("6.738 x 2 + 0.040 x 4 =\n  13.64", 13.64, 0.16, 0.32),
    3: ("6.525 x 0.516 + 1.090 x 2 +\n  0.040 x 4 = 5.71", 5.71, 0.16, 0.32),
    4: ("states 6.738 x 2.03 = 13.69", 13.48, 13.48, 13.69),
    10: ("states 68.977 x 8 / 32 = 17.24", 8.62, 8.62, 17.24),
}
"""Row -> a sum of the page, and its weights, gradients and states."""


@pytest.mark.parametrize("number", BY_HAND)
def test_weights_gradients_and_states_are_those_derived_by_hand(number: int) -> None:
    said, *terms = BY_HAND[number]
    model, tokens, length, wish = REQUESTS[number - 1]
    memory = choose(Request(ModelShape.from_config(CONFIGS[model]), tokens, length, **wish), CATALOGUE).option.memory
    assert [memory.weights, memory.gradients, memory.optimizer] == pytest.approx(terms, abs=0.006)
    assert said in (Path(__file__).parent.parent / "docs" / "cost.md").read_text()


@pytest.mark.parametrize("number", range(1, len(REQUESTS) + 1))
def test_the_arithmetic_of_a_request_adds_up(number: int) -> None:
    table, arithmetic = row(number)
    terms, total = re.match(r"\d+\. ([\d. +]+) = ([\d.]+) GB", arithmetic).groups()  # type: ignore[union-attr]
    assert sum(map(float, terms.split(" + "))) == pytest.approx(float(total), abs=0.3)
    best, worst = map(float, re.findall(r"\| ([\d.]+) to ([\d.]+) \|", table)[0])
    said = float(re.findall(r"= ([\d.]+) h;", arithmetic)[-1])
    # Start-up, loading and a slower quantized product come on top.
    assert said * 0.98 - 0.01 <= best <= said * 1.15 + 0.03
    assert 2 * best <= worst <= 6 * best
