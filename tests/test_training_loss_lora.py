"""The fused LoRA layer: PEFT's outputs and gradients, and PEFT's own forward wherever it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from training_support import store_in, tiny_spec
from transformers import Qwen2Config, Qwen2ForCausalLM

from ftplatform.training.fused_lora import FusedLora, fuse_lora
from ftplatform.training.model import trainable_model


def adapted(**config: Any) -> Any:
    """A Qwen 2, whose q, k and v have a bias, with adapters that are not at their start."""
    torch.manual_seed(11)
    base = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=32)
    )  # fmt: skip
    model = get_peft_model(
        base, LoraConfig(**({"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "up_proj"]} | config))
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.endswith("q_proj.base_layer.bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def outputs_and_gradients(model: Any, autocast: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(input_ids=ids).logits
    logits.float().pow(2).mean().backward()
    return logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def fused(model: Any) -> int:
    return sum(isinstance(module, FusedLora) for module in model.modules())


def test_it_gives_pefts_outputs_and_gradients() -> None:
    model = adapted()
    expected, gradients = outputs_and_gradients(model)
    assert fuse_lora(model, "single") == fused(model) == 4
    out, found = outputs_and_gradients(model)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert set(found) == set(gradients)
    assert len(found) == 8
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-7, msg=name)


def test_under_autocast_it_computes_in_16_bits_and_leaves_gradients_in_32() -> None:
    model = adapted()
    expected, gradients = outputs_and_gradients(model, autocast=True)
    fuse_lora(model, "single")
    out, found = outputs_and_gradients(model, autocast=True)
    assert out.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.02)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), gradients[name].flatten(), dim=0) > 0.99, name


def test_a_switched_off_or_merged_adapter_is_pefts_business() -> None:
    model = adapted()
    with model.disable_adapter():
        bare = outputs_and_gradients_free(model)
    whole = outputs_and_gradients_free(model)
    fuse_lora(model, "single")
    with model.disable_adapter():
        assert torch.equal(outputs_and_gradients_free(model), bare)
    model.merge_adapter()
    torch.testing.assert_close(outputs_and_gradients_free(model), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def outputs_and_gradients_free(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(16)[None]).logits


@pytest.mark.parametrize(
    "config", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True, "target_modules": ["q_proj"]}]
)
def test_what_it_does_not_fit_stays_as_it_is(config: dict[str, Any]) -> None:
    model = adapted(**config)
    assert fuse_lora(model, "single") == fused(model) == 0
    assert any(type(module) is Linear for module in model.modules())


@pytest.mark.parametrize("strategy", ["zero3", "offload"])
def test_under_zero3_weights_come_only_to_modules_that_are_called(strategy: str) -> None:
    assert fuse_lora(adapted(), strategy) == 0


def test_a_lora_training_without_dropout_is_fused(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    base = store_in(tmp_path)[1].fetch_tree(spec.base_weights, tmp_path / "fetched")
    assert fused(trainable_model(spec, base)) == 0
    plain = spec.model_copy(update={"lora": spec.lora.model_copy(update={"dropout": 0.0})})
    assert fused(trainable_model(plain, base)) == 6
