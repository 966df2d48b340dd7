"""Every parameterisation on a live model: what is trained, that it learns, and that it loads on the untouched base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from training_support import store_in, tiny_base

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.training.adapters import add_adapter, freeze, keep_pissa_as_lora, peft_config, quantization_config
from ftplatform.training.model import load_base

LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "target_modules": ("q_proj", "down_proj")}
TRAINING: dict[str, Any] = {"learning_rate": 0.01, "virtual_tokens": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    tiny_base(store_in(folder)[1], folder)
    return folder / "base"


def adapted(base: Path, kind: str = "lora", **lora: Any) -> Any:
    torch.manual_seed(3)
    return add_adapter(load_base(base), kind, LoraConfig(**{**LORA, **lora}), TrainingConfig(**TRAINING))


def step(model: Any, steps: int = 8) -> list[float]:
    """Losses of a few AdamW steps on one batch."""
    ids = torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def answers(model: Any) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(2, 12)[None]).logits


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("lora", {}),
        ("lora", {"use_rslora": True}),
        ("lora", {"use_dora": True}),
        ("lora", {"init_lora_weights": "gaussian"}),
        ("lora", {"init_lora_weights": "pissa"}),
        ("lora", {"init_lora_weights": "pissa", "use_rslora": True}),
        ("lora", {"layers_to_transform": (1,)}),
        ("ia3", {}),
        ("prefix", {}),
        ("prompt", {}),
    ],
)
def test_an_adapter_learns_and_answers_the_same_when_it_is_loaded_on_the_untouched_base(
    base: Path, tmp_path: Path, kind: str, lora: dict[str, Any]
) -> None:
    model = adapted(base, kind, **lora)
    losses = step(model)
    assert losses[-1] < losses[0] - 0.01
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    keep_pissa_as_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(load_base(base), str(tmp_path))
    torch.testing.assert_close(answers(loaded), answers(model), atol=2e-5, rtol=0)


def test_pissa_is_kept_as_plain_lora_of_twice_the_rank(base: Path, tmp_path: Path) -> None:
    for rslora, alpha in ((False, 16.0), (True, 8 * 2**0.5)):
        model = adapted(base, init_lora_weights="pissa", use_rslora=rslora)
        model.save_pretrained(tmp_path, save_embedding_layers=False)
        keep_pissa_as_lora(model, tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (config["r"], config["init_lora_weights"]) == (8, True)
        assert config["lora_alpha"] == pytest.approx(alpha)


def test_adapters_stand_where_the_recipe_puts_them(base: Path) -> None:
    def places(model: Any) -> set[str]:
        return {n.split("layers.")[1].split(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}

    both = {"0.self_attn.q_proj", "0.mlp.down_proj", "1.self_attn.q_proj", "1.mlp.down_proj"}
    assert places(adapted(base)) == both
    assert places(adapted(base, layers_to_transform=(1,))) == {"1.self_attn.q_proj", "1.mlp.down_proj"}
    assert places(adapted(base, exclude_modules=("layers.0.mlp.down_proj",))) == both - {"0.mlp.down_proj"}


def test_blocks_that_are_not_there_are_refused(base: Path) -> None:
    with pytest.raises(
        InvalidConfig, match=r"layers_to_transform \[1, 7\] did not engage: adapters are in blocks \[1\]"
    ):
        adapted(base, layers_to_transform=(1, 7))
    with pytest.raises(InvalidConfig, match="is not possible on LlamaForCausalLM"):
        adapted(base, target_modules=("no_such_layer",))
    with pytest.raises(InvalidConfig, match="has no adapter"):
        peft_config("full", LoraConfig(), TrainingConfig(**TRAINING))


def test_frozen_blocks_and_embeddings_stay_as_they_are(base: Path) -> None:
    model = load_base(base)
    freeze(model, TrainingConfig(**TRAINING, frozen_layers=(0,), frozen_embeddings=True))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, 2)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "layers.1." in name or name == "model.norm.weight"}
    with pytest.raises(InvalidConfig, match=r"frozen_layers \[5\]: the model has blocks 0 to 1"):
        freeze(model, TrainingConfig(**TRAINING, frozen_layers=(0, 5)))


def test_quantization_is_double_nf4_or_int8() -> None:
    def config(name: str) -> Any:
        return quantization_config(TrainingConfig(learning_rate=0.1, quantization=name, precision="fp32"))

    assert config("none") is None
    four = config("nf4")
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant, four.bnb_4bit_compute_dtype) == (
        "nf4", True, torch.float32,
    )  # fmt: skip
    assert config("int8").load_in_8bit
