"""A recipe that names no layers for LoRA means all linear layers of its base's blocks: in the plan, in the job, in training."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from plan_configs import CONFIGS
from test_plan_line import CLUSTER, LAPTOP, plan
from test_plan_shapes import on_meta, shallow

from ftplatform.core import recipe as recipes
from ftplatform.core.digests import digest_json
from ftplatform.core.payload import StoreAddress, TrainSpec
from ftplatform.core.recipe import ATTENTION_AND_MLP, TrainingConfig, parse_recipe
from ftplatform.planning.lengths import sequence_length
from ftplatform.planning.setup import Setup, resolved_lora, trained_parameters
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes.rules import continues
from ftplatform.training.adapters import add_adapter
from ftplatform.training.model import check_engaged

RECIPE: dict[str, Any] = {"name": "mine", "version": 1, "base": "base", "training": {"learning_rate": 1e-4}}
FAMILY = {config["architectures"][0]: name for name, config in reversed(CONFIGS.items())}


DENSE = [name for name in FAMILY.values() if ModelShape.from_config(CONFIGS[name]).experts is None]


@pytest.mark.parametrize("name", DENSE)
def test_the_default_is_what_peft_calls_all_linear(name: str) -> None:
    shape = ModelShape.from_config(shallow(name))
    found = resolved_lora(parse_recipe(RECIPE), shape)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        live = get_peft_model(
            on_meta(shallow(name)), LoraConfig(r=found.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    layers = {path.rpartition(".")[2] for path, module in live.named_modules() if isinstance(module, LoraLayer)}
    assert set(found.target_modules) == layers
    counted = trained_parameters(Setup.from_recipe(parse_recipe(RECIPE)), shape)
    assert counted == sum(p.numel() for p in live.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["phi-3-mini", "gpt2", "qwen-3-30b-a3b"])
def test_a_job_plans_the_names_that_training_finds(name: str) -> None:
    made, checks = plan(name, CLUSTER if name != "gpt2" else LAPTOP, training={"max_length": 512})
    assert {check.name for check in checks.values() if not check.passed} == set()
    training = TrainingConfig(learning_rate=1e-4)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        live = add_adapter(on_meta(shallow(name)), "lora", made.lora, training)
    spec = TrainSpec(
        key="0" * 64, store=StoreAddress(url="file:///nowhere"), base_weights="0" * 64, shards={}, max_length=512, method="sft",
        parameterisation="lora", lora=made.lora, training=training, micro_batch=1, accumulation=1, steps=1, threads=1,
    )  # fmt: skip
    check_engaged(live, spec)


def test_where_the_names_are_llamas_plans_and_digests_are_as_they_were() -> None:
    made, _ = plan("llama-2-7b")
    assert made.lora == recipes.LoraConfig()
    assert made.lora.target_modules == ATTENTION_AND_MLP
    parsed = parse_recipe(RECIPE)
    assert parsed.model_dump(mode="json")["lora"]["target_modules"] == list(ATTENTION_AND_MLP)
    assert digest_json(json.loads(parsed.model_dump_json())) == parsed.content_digest


def test_layers_that_are_named_are_taken_as_they_stand() -> None:
    named = parse_recipe(RECIPE | {"lora": {"target_modules": ["qkv_proj"]}})
    assert resolved_lora(named, ModelShape.from_config(CONFIGS["phi-3-mini"])) is named.lora
    full = parse_recipe(RECIPE | {"parameterisation": "full"})
    assert resolved_lora(full, ModelShape.from_config(CONFIGS["phi-3-mini"])) is full.lora


def test_a_version_is_trained_on_by_a_recipe_that_names_no_layers() -> None:
    asked = parse_recipe(RECIPE)
    phi = ModelShape.from_config(CONFIGS["phi-3-mini"])
    saved = {
        "peft_type": "LORA",
        "r": 16,
        "lora_alpha": 32.0,
        "target_modules": ["down_proj", "qkv_proj", "o_proj", "gate_up_proj"],
    }
    assert "target_modules" in (continues(asked, saved) or "")
    assert continues(asked.model_copy(update={"lora": resolved_lora(asked, phi)}), saved) is None


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([100] * 99 + [5000], 8192, 256),
        ([300] * 98 + [900] * 2, 8192, 1024),
        ([1024] * 50, 8192, 1024),
        ([1025] * 50, 8192, 2048),
        ([9000] * 50, 4096, 4096),
        ([1], 128, 128),
    ],
)
def test_sequences_are_as_long_as_99_of_100_rows(lengths: list[int], most: int, expected: int) -> None:
    found, why = sequence_length(lengths, most)
    assert found == expected
    assert f"Sequences of {expected} tokens: 99 % of {len(lengths)} sampled rows" in why
    assert ("at most 4096" in why) == (most == 4096)
