"""The shipped recipes against the planner: each runs where it says, with memory to spare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plan_configs import CONFIGS
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.planning.hardware import load_hardware
from ftplatform.recipes import read_recipe, shipped

QWEN3, QWEN25 = CONFIGS["qwen-3-8b"], CONFIGS["qwen-2.5-7b"]
BASES: dict[str, dict[str, Any]] = {
    "llama-3-2-1b-instruct": CONFIGS["llama-3.2-1b"],
    "llama-3-2-3b-instruct": CONFIGS["llama-3.2-3b"],
    "llama-3-1-8b-instruct": CONFIGS["llama-3-8b"],
    "llama-3-3-70b-instruct": CONFIGS["llama-3-70b"],
    "mistral-7b-instruct-v0-3": {**CONFIGS["mistral-7b"], "vocab_size": 32768},
    "gemma-2-9b-it": CONFIGS["gemma-2-9b"],
    "gemma-3-1b-it": CONFIGS["gemma-3-1b"],
    "qwen2-5-1-5b-instruct": {
        **QWEN25, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
        "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2-5-7b-instruct": QWEN25,
    "qwen2-5-32b-instruct": {
        **QWEN25, "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "qwen3-4b-instruct-2507": {
        **QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": QWEN3,
}  # fmt: skip
SIZES = ("llama-8b", "mistral-7b", "qwen25-7b", "qwen3-8b", "gemma2-9b")
KINDS = ("lora", "qlora", "full", "dpo", "orpo")
SPARE = 0.07
"""Of a GPU's memory, on top of the planner's own reserve."""


def test_every_family_has_the_same_kinds() -> None:
    assert {f"{size}-{kind}" for size in SIZES for kind in KINDS} - set(shipped()) == set()


@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("tiny")])
def test_a_shipped_recipe_fits_its_gpu_with_memory_to_spare(name: str, tmp_path: Path) -> None:
    recipe, config = read_recipe(shipped()[name]), tmp_path / "config.json"
    config.write_text(json.dumps(BASES[recipe.base]))
    found = CliRunner().invoke(app, ["plan", name, "--model-config", str(config), "--tokens", "5e6", "--json"])
    assert found.exit_code == 0, found.output
    plan = json.loads(found.stdout)
    assert (plan["gpu"], plan["gpus"]) == (recipe.hardware.gpu, recipe.hardware.gpus)
    room = load_hardware().get(plan["gpu"]).memory_gb
    # A larger micro-batch that turns out too large is halved by the training itself; one of 1 has nowhere to go.
    assert plan["micro_batch"] > 1 or plan["memory_gb"]["total"] <= (1 - SPARE) * room
