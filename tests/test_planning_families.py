"""Reading a ``config.json``: families, checkpoints of several parts, and values that are no sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plan_configs import CONFIGS
from transformers import AutoConfig, AutoModelForCausalLM

from ftplatform.core.errors import PlanRefused
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.choose import Request, choose
from ftplatform.planning.families import FAMILIES
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape

LLAMA = CONFIGS["llama-3-8b"]
GEMMA_3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "model_type": "siglip_vision_model"},
}
"""As published: what is as in the family is left out."""


def test_a_checkpoint_with_a_vision_part_is_sized_by_its_text_model_and_says_so() -> None:
    shape = ModelShape.from_config(GEMMA_3_4B)
    config = AutoConfig.for_model(
        "gemma3_text", **{k: v for k, v in GEMMA_3_4B["text_config"].items() if k != "model_type"}
    )
    with torch.device("meta"):
        live = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in live.parameters())
    assert shape.architecture == "Gemma3ForCausalLM"
    choice = choose(Request(shape, 1e6, 1024), load_hardware())
    assert any("Gemma3ForConditionalGeneration" in r and "vision weights are left out" in r for r in choice.reasons)


def test_a_text_part_takes_its_ties_from_the_whole_checkpoint() -> None:
    text = {
        name: value
        for name, value in CONFIGS["mistral-7b"].items()
        if name not in ("architectures", "tie_word_embeddings")
    }
    nested = {"architectures": ["Mistral3ForConditionalGeneration"], "tie_word_embeddings": True, "text_config": text}
    assert ModelShape.from_config(nested).tied
    assert ModelShape.from_config(nested).architecture == "MistralForCausalLM"


@pytest.mark.parametrize("named", [None, [], "LlamaForCausalLM", [None], 7, {}])
def test_an_architecture_of_odd_form_falls_back_to_the_model_type(named: Any) -> None:
    assert ModelShape.from_config({**LLAMA, "architectures": named}).architecture == "LlamaForCausalLM"
    bare = {name: value for name, value in LLAMA.items() if name != "architectures"}
    assert ModelShape.from_config(bare) == ModelShape.from_config(LLAMA)


@pytest.mark.parametrize(
    "config", [{}, {"model_type": 3}, {"model_type": "falcon"}, {"architectures": ["DeepseekV3ForCausalLM"]}]
)
def test_what_cannot_be_sized_is_refused_with_the_list_of_what_can(config: dict[str, Any]) -> None:
    with pytest.raises(PlanRefused) as error:
        ModelShape.from_config(config)
    assert all(family in str(error.value) for family in FAMILIES)


@pytest.mark.parametrize("value", [-1, 0, 1.5, "4096", [], {}, True, float("nan"), 10**12])
@pytest.mark.parametrize(
    "field",
    ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings", "num_key_value_heads", "head_dim"],
)
def test_a_size_that_is_none_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(PlanRefused, match=rf"{field} .*accepted is a whole number from 1"):
        ModelShape.from_config({**LLAMA, field: value})


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({**LLAMA, "hidden_size": None}, "has no 'hidden_size'"),
        ({**LLAMA, "tie_word_embeddings": "no"}, "accepted are true and false"),
        ({**LLAMA, "num_key_value_heads": 5}, "32 attention heads for 5"),
        ({**CONFIGS["gpt2"], "n_head": 7}, "n_embd 768 for 7 heads"),
        ({**CONFIGS["qwen-3-30b-a3b"], "decoder_sparse_step": 0}, "decoder_sparse_step 0"),
        ({**CONFIGS["qwen-3-30b-a3b"], "mlp_only_layers": "all"}, "accepted is a list of block numbers"),
        ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "quantized already.*training.quantization"),
    ],
)
def test_a_config_that_means_nothing_is_refused_with_a_sentence(config: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanRefused, match=why):
        ModelShape.from_config(config)


def test_a_target_that_is_missing_is_said_of_the_adapter_that_was_asked_for() -> None:
    with pytest.raises(PlanRefused, match="IA3 target modules"):
        trained_parameters(Setup("ia3"), ModelShape.from_config(CONFIGS["phi-3-mini"]))


@pytest.mark.parametrize("name", ["olmo-2-7b", "granite-3.1-2b", "smollm3-3b"])
def test_a_new_family_is_planned(name: str) -> None:
    found = choose(
        Request(ModelShape.from_config(CONFIGS[name]), 1e6, 1024, setups=(Setup(lora=LoraConfig()),)), load_hardware()
    )
    assert found.option.memory.total <= found.option.available_gb
