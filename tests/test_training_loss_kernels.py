"""Kernels of a GPU: chosen by what is there, and looked for on the live objects. The kernels themselves need a GPU."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import tiny_spec
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.training import kernels
from ftplatform.training.kernels import OptimizerCheck, engage_liger, optimizer_name
from ftplatform.training.light_imports import hidden, unused_packages


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU and a Liger that do nothing but what the tests look at."""
    given: dict[str, Any] = {}

    def forward(self: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        return states

    forward.__module__ = "liger_kernel.transformers.rms_norm"

    def apply(model: Any, **config: Any) -> None:
        given.update(config)
        modeling_llama.LlamaRMSNorm = type("LigerRMSNorm", (), {})  # type: ignore[misc,assignment]
        if not given.get("broken"):
            model.model.norm.__dict__["forward"] = forward.__get__(model.model.norm)

    package, patch = types.ModuleType("liger_kernel.transformers"), types.ModuleType("monkey_patch")
    package._apply_liger_kernel_to_instance = apply  # type: ignore[attr-defined]
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply}  # type: ignore[attr-defined]
    for name, module in (
        ("", types.ModuleType("liger_kernel")),
        (".transformers", package),
        (".transformers.monkey_patch", patch),
    ):
        monkeypatch.setitem(sys.modules, f"liger_kernel{name}", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "is_liger_kernel_available", lambda: True)
    monkeypatch.setattr("transformers.integrations.liger.is_liger_kernel_available", lambda: True)
    return given


def test_liger_changes_this_model_alone_and_leaves_the_loss(liger: dict[str, Any]) -> None:
    before, model = modeling_llama.LlamaRMSNorm, llama()
    assert engage_liger(model)
    assert (liger["cross_entropy"], liger["fused_linear_cross_entropy"], liger["rope"]) == (False, False, False)
    assert modeling_llama.LlamaRMSNorm is before
    assert model.model.norm.forward.__module__.startswith("liger_kernel")


def test_a_liger_that_did_not_engage_fails(liger: dict[str, Any]) -> None:
    liger["broken"] = True
    with pytest.raises(InvalidConfig, match="Liger kernels did not engage on LlamaForCausalLM"):
        engage_liger(llama())


def test_a_family_that_liger_does_not_know_stays(liger: dict[str, Any]) -> None:
    model = llama()
    model.config.model_type = "unheard-of"
    assert not engage_liger(model)
    assert liger == {}


def test_without_a_gpu_nothing_is_exchanged(tmp_path: Path) -> None:
    assert not engage_liger(llama())
    assert optimizer_name(tiny_spec(tmp_path)) == "adamw_torch"


def test_on_a_gpu_adamw_is_one_kernel_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert optimizer_name(spec) == "adamw_torch_fused"
    assert optimizer_name(spec.model_copy(update={"strategy": "zero3"})) == "adamw_torch"
    eight = spec.training.model_copy(update={"optimizer": "paged_adamw_8bit"})
    assert optimizer_name(spec.model_copy(update={"training": eight})) == "paged_adamw_8bit"
    weights = [torch.nn.Parameter(torch.ones(2))]
    check = OptimizerCheck(spec)
    check.on_train_begin(optimizer=torch.optim.AdamW(weights, fused=True))
    with pytest.raises(InvalidConfig, match="the fused AdamW did not engage"):
        check.on_train_begin(optimizer=torch.optim.AdamW(weights))


def test_packages_without_use_are_away_while_the_libraries_load_and_there_for_a_grader(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    assert unused_packages(spec) == {
        "bitsandbytes", "boto3", "datasets", "deepspeed", "pandas", "scipy", "sklearn", "torchao",
    }  # fmt: skip

    def changed(**fields: Any) -> TrainSpec:
        return spec.model_copy(update=fields)

    assert "deepspeed" not in unused_packages(changed(strategy="zero2"))
    assert "boto3" not in unused_packages(changed(store=spec.store.model_copy(update={"url": "s3://bucket/x"})))
    assert "datasets" not in unused_packages(changed(method="of-a-plug-in"))
    quantized = spec.training.model_copy(update={"quantization": "nf4", "qat": "int4"})
    assert not {"bitsandbytes", "torchao"} & unused_packages(changed(training=quantized))
    name = "wave"
    sys.modules.pop(name, None)
    with hidden({name, "torch"}):
        assert sys.modules["torch"] is torch
        with pytest.raises(ModuleNotFoundError):
            import wave  # noqa: F401
    import wave as there

    assert there.__name__ == name
