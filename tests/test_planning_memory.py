"""Memory terms that depend on how the payload trains: what is quantized, masks, logits, DeepSpeed's gradients, the host."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from plan_configs import CONFIGS
from transformers import AutoConfig, AutoModelForCausalLM

from ftplatform.core.errors import PlanRefused
from ftplatform.core.payload import TrainSpec
from ftplatform.core.recipe import LoraConfig, Strategy
from ftplatform.planning.activations import LOGIT_CHUNK, SMALL_VOCABULARY, activation_bytes, logits_bytes, takes_mask
from ftplatform.planning.choose import FULL, Request, choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.host import host_need
from ftplatform.planning.memory import Layout, estimate_memory
from ftplatform.planning.options import options
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.training import loss
from ftplatform.training.attention import BY_DOCUMENT, choose_attention
from ftplatform.training.stored import stays_stored

CATALOGUE = load_hardware()
SHAPES = {name: ModelShape.from_config(config) for name, config in CONFIGS.items()}
LORA, QLORA = Setup(lora=LoraConfig()), Setup(lora=LoraConfig(), quantization="nf4")
ADAMW, EIGHT_BIT = FULL
BILLION = 1e9
ONE_PER_FAMILY = {config["architectures"][0]: name for name, config in CONFIGS.items()}.values()


def refused(setup: Setup, model: str, **wish: Any) -> str:
    with pytest.raises(PlanRefused) as error:
        choose(Request(SHAPES[model], 1e6, wish.pop("length", 2048), setups=(setup,), **wish), CATALOGUE)
    return str(error.value)


def config_of(name: str, **changes: int) -> Any:
    values = {**CONFIGS[name], **{field: value for field, value in changes.items() if field in CONFIGS[name]}}
    return AutoConfig.for_model(values.pop("model_type"), **values)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_quantized_is_what_bitsandbytes_would_replace(name: str) -> None:
    """It takes modules whose type is ``nn.Linear``, or GPT-2's ``Conv1D``, and leaves the output layer."""
    with torch.device("meta"):
        live = AutoModelForCausalLM.from_config(config_of(name))
    linear = [m for m in live.modules() if type(m) is torch.nn.Linear or type(m).__name__ == "Conv1D"]
    counted = sum(module.weight.numel() for module in linear if module is not live.get_output_embeddings())
    assert SHAPES[name].quantizable == counted


@pytest.mark.parametrize("name", ["qwen-3-30b-a3b", "mixtral-8x7b"])
def test_the_experts_of_a_mixture_stay_in_bf16_and_the_plan_says_so(name: str) -> None:
    shape = SHAPES[name]
    weights = estimate_memory(shape, QLORA, Layout(1, 512)).weights
    assert weights > 0.95 * 2 * shape.parameters / BILLION
    reasons = choose(Request(shape, 1e6, 512, setups=(QLORA,)), CATALOGUE).reasons
    assert any("% of the weights are quantized" in reason and "experts" in reason for reason in reasons)
    dense = choose(Request(SHAPES["llama-3-8b"], 1e6, 512, setups=(QLORA,)), CATALOGUE).reasons
    assert not any("experts" in reason for reason in dense)


def test_a_teacher_of_unknown_size_is_said_to_be_left_out() -> None:
    def said(teacher: int) -> bool:
        setup = Setup(method="distillation", lora=LoraConfig(), teacher=teacher)
        reasons = choose(Request(SHAPES["llama-3.2-1b"], 1e6, 512, setups=(setup,)), CATALOGUE).reasons
        return any("The teacher is not counted" in reason for reason in reasons)

    assert said(0)
    assert not said(10**9)


def test_a_mask_is_counted_only_where_training_takes_one() -> None:
    def kept(model: str, setup: Setup, masked: bool | None = None) -> float:
        return estimate_memory(SHAPES[model], setup, Layout(1, 2048, masked=masked)).activations

    assert kept("llama-3-8b", LORA) == kept("llama-3-8b", LORA, False) < kept("llama-3-8b", LORA, True)
    for virtual in (Setup("prefix"), Setup("prompt")):
        assert kept("llama-3-8b", virtual) == kept("llama-3-8b", virtual, True) > kept("llama-3-8b", virtual, False)
    capped = SHAPES["gemma-2-9b"]
    whole = activation_bytes(capped, LORA, 2048, 2048, checkpointing=False, masked=True)
    assert kept("gemma-2-9b", LORA) == pytest.approx(whole / BILLION, abs=1e-3)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_the_planner_knows_which_families_training_attends_with_a_mask(name: str) -> None:
    """Gemma 2 is loaded for eager attention (``model.attention_of``); all others take the attention by documents."""
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config_of(name, num_hidden_layers=1, n_layer=1)))
    loaded = "sdpa" if kind._supports_sdpa else "eager"
    live = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation=loaded, get_text_config=lambda: SimpleNamespace()),
        _supports_flash_attn=False, _supports_sdpa=kind._supports_sdpa, _supports_attention_backend=kind._supports_attention_backend,
    )  # fmt: skip
    assert takes_mask(SHAPES[name], LORA) == (choose_attention(live, "bf16") != BY_DOCUMENT)


def test_the_planner_counts_logits_with_the_constants_of_the_loss() -> None:
    assert (LOGIT_CHUNK, SMALL_VOCABULARY) == (loss.CHUNK, loss.SMALL_VOCABULARY)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "orpo", "grpo", "rloo", "distillation"])
def test_logits_come_in_chunks_with_every_method_and_a_distillation_has_two(method: str) -> None:
    shape, setup, models = SHAPES["llama-3-8b"], Setup(method=method, lora=LoraConfig()), 1 + (method == "distillation")
    chunk = LOGIT_CHUNK * 128256 * 10 * models
    assert logits_bytes(shape, setup, 8192) == logits_bytes(shape, setup, 4096) == chunk
    whole = chunk + 8192 * 128256 * 6 * models
    assert logits_bytes(shape, setup, 8192, whole_layer=False) == whole
    for strategy in ("fsdp2", "zero3"):
        sharded = estimate_memory(shape, setup, Layout(1, 8192, gpus=8, strategy=strategy))
        assert sharded.logits == pytest.approx(whole / BILLION, abs=1e-3)
    for strategy in ("single", "ddp", "zero2"):
        assert estimate_memory(shape, setup, Layout(1, 8192, strategy=strategy)).logits == pytest.approx(
            chunk / BILLION, abs=1e-3
        )


def test_all_logits_exist_where_the_loss_takes_them_so() -> None:
    small = replace(SHAPES["llama-3-8b"], vocabulary=SMALL_VOCABULARY)
    assert logits_bytes(small, LORA, 4096) == 4096 * SMALL_VOCABULARY * 10
    for name in ("gemma-2-9b", "granite-3.1-2b"):
        vocabulary = SHAPES[name].vocabulary
        assert logits_bytes(SHAPES[name], LORA, 4096) == (LOGIT_CHUNK * 10 + 4096 * 8) * vocabulary, name
    plain = ModelShape.from_config({**CONFIGS["granite-3.1-2b"], "logits_scaling": 1.0})
    assert logits_bytes(plain, LORA, 4096) == LOGIT_CHUNK * plain.vocabulary * 10
    assert logits_bytes(SHAPES["llama-3-8b"], Setup("full", method="reward"), 4096) == 0


def test_the_planner_knows_which_strategies_map_full_weights_from_their_files() -> None:
    base = {"key": "0" * 64, "store": {"url": "file:///nowhere"}, "base_weights": "0" * 64, "shards": {}, "max_length": 16,
            "method": "sft", "parameterisation": "full", "lora": {}, "micro_batch": 1, "accumulation": 1, "steps": 1, "threads": 1}  # fmt: skip
    for strategy, precision, kept, qat in product(
        get_args(Strategy), ("fp32", "bf16"), ("fp32", "bf16"), ("none", "int4")
    ):
        training = {"learning_rate": 1e-4, "precision": precision, "weights": kept, "qat": qat}
        spec = TrainSpec.model_validate({**base, "strategy": strategy, "training": training})
        setup = Setup("full", precision=precision, weights=kept, qat=qat)
        layout = Layout(1, 512, gpus=64, strategy=strategy)
        loads = "to load" in host_need(SHAPES["llama-2-7b"], setup, layout).what
        assert loads != stays_stored(spec), (strategy, training)


def test_deepspeed_adds_gradients_up_in_fp32_and_offload_in_host_memory() -> None:
    shape = SHAPES["llama-2-7b"]

    def gradients(strategy: Any, setup: Setup = ADAMW) -> float:
        return estimate_memory(shape, setup, Layout(1, 512, gpus=4, strategy=strategy)).gradients

    for strategy in ("zero2", "zero3"):
        assert gradients(strategy) == pytest.approx(4 * shape.parameters / 4 / BILLION, abs=1e-3)
    assert gradients("offload") == 0
    assert gradients("ddp", replace(EIGHT_BIT, optimizer="adamw")) == pytest.approx(
        2 * shape.parameters / BILLION, abs=1e-3
    )


def test_the_host_holds_what_loading_saving_and_the_proof_need_one_after_the_other() -> None:
    shape = SHAPES["llama-2-7b"]
    weights = shape.parameters / BILLION

    def need(setup: Setup, strategy: Any = "single", gpus: int = 1, nodes: int = 1) -> tuple[float, str]:
        found = host_need(shape, setup, Layout(1, 512, gpus=gpus, strategy=strategy), nodes)
        return round(found.gb / weights, 2), found.what

    assert need(ADAMW) == (8, "to save the weights and the optimizer's states")
    assert need(ADAMW, "ddp", 8) == (32, "to load the fp32 weights in each of its processes")
    assert need(replace(ADAMW, weights="bf16", optimizer="adamw_8bit"), "ddp", 16, 2) == (
        16, "to load the bf16 weights in each of its processes",
    )  # fmt: skip
    assert need(ADAMW, "fsdp2", 8)[0] == need(ADAMW, "zero3", 8)[0] == 8, "divided straight from the files"
    assert need(ADAMW, "zero2", 8)[0] == need(replace(ADAMW, precision="fp32"), "zero3", 8)[0] == 32
    assert need(replace(ADAMW, qat="int4"), "fsdp2", 8)[0] == 32
    factor, what = need(ADAMW, "offload", 8)
    assert (factor, "offload keeps there" in what) == (28, True), "4 + 8 + 8 of states and gradients, and 8 of a copy"
    assert need(ADAMW, "offload", 16, 2)[0] == 18
    proof = 4 * (2 * 32000 * 4096 + 202_383_360 + 8192) / shape.parameters
    assert need(LORA, "ddp", 8) == (round(proof, 2), "to prove the result, with embeddings and a block in fp32")
    assert need(replace(ADAMW, optimizer="paged_adamw_32bit"))[0] == 12


def test_a_host_that_is_too_small_is_refused_by_what_needs_it() -> None:
    why = refused(ADAMW, "llama-2-7b", gpu="h100-80", gpus=1, strategy="offload")
    assert "needs 189 GB of host memory for the states and gradients that offload keeps there" in why
    assert "1 x h100-80 come with 160 GB" in why
    card = CATALOGUE.get("h100-80")
    small = card.model_copy(update={"kubernetes": card.kubernetes.model_copy(update={"memory_gb": 2.0})})
    poor = CATALOGUE.model_copy(update={"hardware": {"h100-80": small}})
    with pytest.raises(PlanRefused, match="needs 5 GB of host memory to prove the result"):
        choose(Request(SHAPES["llama-3-8b"], 1e6, 512, setups=(LORA,), gpu="h100-80", gpus=1), poor)
    pins = Request(SHAPES["llama-2-70b"], 1e6, 512, batch=32, gpu="h100-80", gpus=16, strategy="offload")
    (two_nodes,) = options(pins.work, ADAMW, CATALOGUE, pins.pins)
    assert two_nodes.why_not == "", "each of the two nodes keeps half of the states"


@pytest.mark.parametrize(
    ("setup", "model", "length", "what"),
    [
        (LORA, "llama-2-13b", 512, "the base weights"),
        (Setup("prefix"), "llama-3-8b", 8192, "activations"),
        (LORA, "gemma-2-9b", 8192, "logits over 256,000 tokens"),
        (ADAMW, "llama-2-7b", 512, "107.8 GB for weights, gradients and optimizer states"),
    ],
)
def test_a_refusal_names_what_takes_most(setup: Setup, model: str, length: int, what: str) -> None:
    assert (
        what
        in refused(setup, model, gpu="l4", gpus=1, length=length, strategy="single", engine="embedded").split(". ")[0]
    )
