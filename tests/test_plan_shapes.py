"""Counts in closed form against the live ones: models on the meta device, adapters as PEFT builds them, saved activations."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from plan_configs import CONFIGS
from transformers import AutoConfig, AutoModelForCausalLM

from ftplatform.core import recipe
from ftplatform.core.errors import PlanRefused
from ftplatform.planning.activations import layer_bytes
from ftplatform.planning.families import FAMILIES
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape

PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "qwen-2.5-7b": 7_615_616_512,
    "gemma-2-9b": 9_241_705_984,
    "phi-3-mini": 3_821_079_552,
}
DENSE = [name for name in CONFIGS if name not in ("qwen-3-30b-a3b", "mixtral-8x7b")]


def model_config(config: dict[str, Any]) -> Any:
    values = dict(config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def on_meta(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config(config))


@cache
def whole(name: str) -> Any:
    """The model of a config with all its blocks; nobody may change it."""
    return on_meta(CONFIGS[name])


def shallow(name: str) -> dict[str, Any]:
    """The config with three blocks of full width: adapters repeat per block."""
    config = CONFIGS[name]
    return {**config, "n_layer" if "n_layer" in config else "num_hidden_layers": 3}


def of_one_per_family() -> list[str]:
    seen: dict[str, str] = {}
    for name in DENSE:
        seen.setdefault(CONFIGS[name]["architectures"][0], name)
    return list(seen.values())


def test_every_known_family_has_a_real_config_here() -> None:
    assert {config["architectures"][0] for config in CONFIGS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_live_model(name: str) -> None:
    shape = ModelShape.from_config(CONFIGS[name])
    live = whole(name)
    assert shape.parameters == sum(p.numel() for p in live.parameters())
    assert shape.tied == live.config.tie_word_embeddings
    if name in PUBLISHED:
        assert shape.parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_linear_layers_have_the_live_shapes(name: str) -> None:
    shape = ModelShape.from_config(CONFIGS[name])
    live = whole(name)
    block = next(m for path, m in live.named_modules() if path.endswith(("layers.0", "h.0")))
    found = [
        (path.rpartition(".")[2], module.weight.numel() + (module.bias.numel() if module.bias is not None else 0))
        for path, module in block.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D")
    ]
    routed = shape.experts is not None
    counted = [(linear.name, linear.parameters) for linear in (shape.attention if routed else shape.linears)]
    assert sorted(found) == sorted(counted)


@pytest.mark.parametrize("name", of_one_per_family())
@pytest.mark.parametrize("kind", ["lora", "dora", "prefix", "prompt"])
def test_adapters_have_as_many_weights_as_pefts(name: str, kind: str) -> None:
    shape = ModelShape.from_config(shallow(name))
    setup = {
        "lora": Setup(lora=recipe.LoraConfig(rank=8)),
        "dora": Setup(lora=recipe.LoraConfig(rank=8, use_dora=True)),
        "prefix": Setup("prefix", virtual_tokens=7),
        "prompt": Setup("prompt", virtual_tokens=7),
    }[kind]
    task = {"task_type": "CAUSAL_LM"}
    config = {
        "lora": LoraConfig(r=8, target_modules=list(shape.targets), **task),
        "dora": LoraConfig(r=8, target_modules=list(shape.targets), use_dora=True, **task),
        "prefix": PrefixTuningConfig(num_virtual_tokens=7, **task),
        "prompt": PromptTuningConfig(num_virtual_tokens=7, **task),
    }[kind]
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        live = get_peft_model(on_meta(shallow(name)), config)
    assert trained_parameters(setup, shape) == sum(p.numel() for p in live.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["llama-3-8b", "mistral-7b", "qwen-2.5-7b", "gemma-2-9b"])
def test_ia3_has_as_many_weights_as_pefts(name: str) -> None:
    shape = ModelShape.from_config(shallow(name))
    with torch.device("meta"):
        live = get_peft_model(
            on_meta(shallow(name)),
            IA3Config(
                target_modules=["k_proj", "v_proj", "down_proj"],
                feedforward_modules=["down_proj"],
                task_type="CAUSAL_LM",
            ),
        )
    assert trained_parameters(Setup("ia3"), shape) == sum(p.numel() for p in live.parameters() if p.requires_grad)


LENGTH = 64
SETUPS = {
    "full, autocast": (Setup("full"), torch.float32),
    "full, bf16": (Setup("full", weights="bf16"), torch.bfloat16),
    "full, fp32": (Setup("full", precision="fp32"), torch.float32),
    "lora, bf16 base": (Setup(lora=recipe.LoraConfig(rank=8)), torch.bfloat16),
    "lora, fp32 base": (Setup(lora=recipe.LoraConfig(rank=8), precision="fp32"), torch.float32),
}


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The family with odd sizes, so that no two tensors of a block have the same."""
    changed = {
        "hidden_size": 204,
        "intermediate_size": 560,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 40,
        "vocab_size": 300,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "bos_token_id": 0,
        "max_position_embeddings": 128,
    }
    if config["model_type"] == "phi3":
        changed |= {"hidden_size": 192, "head_dim": None}
    return {name: value for name, value in {**config, **changed}.items() if value is not None}


def saved_bytes(config: dict[str, Any], setup: Setup, dtype: torch.dtype, layers: int, *, masked: bool) -> int:
    """Bytes of everything autograd keeps for the backward pass that is no weight and no cast of one."""
    live = AutoModelForCausalLM.from_config(
        model_config({**config, "num_hidden_layers": layers}),
        attn_implementation="eager" if config["model_type"] == "gemma2" else "sdpa",
        dtype=dtype,
    )
    body = live.model
    if not setup.full:
        live = get_peft_model(live, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    live.train()
    weights = {p.untyped_storage().data_ptr() for p in live.parameters()}
    sizes = {tuple(p.shape) for p in live.parameters()} | {tuple(p.shape[::-1]) for p in live.parameters()}
    kept: list[torch.Tensor] = []
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril() if masked else None
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=setup.precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t), autocast:
        body(input_ids=torch.zeros(1, LENGTH, dtype=torch.long), attention_mask=mask, use_cache=False)
    storages = {t.untyped_storage().data_ptr(): t for t in kept}
    return sum(
        t.untyped_storage().nbytes()
        for address, t in storages.items()
        if address not in weights and tuple(t.shape) not in sizes
    )


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("kind", SETUPS)
@pytest.mark.parametrize(
    "name",
    [
        "llama-3-8b",
        "qwen-3-8b",
        "gemma-2b",
        "gemma-2-9b",
        "gemma-3-1b",
        "phi-3-mini",
        "olmo-2-7b",
        "granite-3.1-2b",
        "smollm3-3b",
    ],
)
def test_a_block_keeps_the_activations_that_are_counted(name: str, kind: str, masked: bool) -> None:
    config, (setup, dtype) = small(CONFIGS[name]), SETUPS[kind]
    one, two = (saved_bytes(config, setup, dtype, layers, masked=masked) for layers in (1, 2))
    counted = layer_bytes(ModelShape.from_config(config), setup, LENGTH, masked=masked)
    assert counted == pytest.approx((two - one) / LENGTH, rel=0.04)


def test_an_unknown_architecture_and_a_config_without_sizes_are_refused_by_name() -> None:
    with pytest.raises(PlanRefused, match=r"a MambaForCausalLM: known are LlamaForCausalLM"):
        ModelShape.from_config({"architectures": ["MambaForCausalLM"]})
    with pytest.raises(PlanRefused, match="has no 'hidden_size'"):
        ModelShape.from_config({"architectures": ["LlamaForCausalLM"], "num_attention_heads": 4})


def test_a_lora_target_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    phi = ModelShape.from_config(CONFIGS["phi-3-mini"])
    with pytest.raises(PlanRefused, match=r"\['q_proj'\].*qkv_proj.*gate_up_proj"):
        phi.selected(("q_proj",))
