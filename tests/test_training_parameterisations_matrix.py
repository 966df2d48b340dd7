"""Method x parameterisation x quantization: the printed table, and every sensible combination trained for two steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from methods_support import GOOD, kto, method_spec, pairs, prompts, records, run, with_text
from methods_support import flat as flat_pairs
from training_support import LENGTH, VOCABULARY, store_in
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.core.methods import BUILT_IN
from ftplatform.core.recipe import parse_recipe
from ftplatform.recipes.matrix import combinations, table
from ftplatform.recipes.rules import compatible, contradictions
from ftplatform.training.model import trainable_model

SENSIBLE = [one[:4] for one in combinations() if one[4] is None]
QUICK = {
    ("sft", "prompt", "none", "none"),
    ("dpo", "ia3", "none", "none"),
    ("grpo", "prefix", "none", "none"),
    ("sft", "full", "none", "int8-int4"),
}


def wide_base(folder: Path) -> str:
    """64 hidden units: on a CPU bitsandbytes evaluates no nf4 matrix narrower than its blocks."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=LENGTH * 2, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder / "wide")
    with_text(folder / "wide")
    return store_in(folder)[1].put_tree(folder / "wide")


def trained(folder: Path, method: str, kind: str, quantization: str, qat: str) -> list[dict[str, float]]:
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, Any] | None = None
    if method in ("dpo", "orpo", "reward"):
        splits = {"train": flat_pairs(pairs(8, 0))}
    elif method == "kto":
        splits = {"train": kto(8, 0)}
    elif method in ("grpo", "rloo"):
        splits = {"train": prompts(8, 0, {"want": f"w{GOOD[0]}"})}
    words = {
        "type": "string_check",
        "operation": "like",
        "input": "{{sample.output_text}}",
        "reference": "{{item.want}}",
    }
    options: dict[str, Any] = {
        "grpo": {"rewards": [words], "group_size": 2, "max_new_tokens": 4, "kl": 0.1},
        "rloo": {"rewards": [words], "group_size": 2, "max_new_tokens": 4},
        "distillation": {"teacher": "tiny@12345678"},
    }.get(method, {})
    spec = method_spec(
        folder, method, splits, options, kind=kind, steps=2, quantization=quantization, qat=qat, qat_group_size=16,
        virtual_tokens=3,
    )  # fmt: skip
    base = wide_base(folder)
    spec = spec.model_copy(update={"base_weights": base, "teacher_weights": base if method == "distillation" else None})
    result = run(spec, folder)
    assert result.outcome == "done", result.message
    assert {"weights", "fingerprint"} <= set(result.artifacts)
    return records(folder, result)


@pytest.mark.parametrize(
    "combination",
    [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow, id="-".join(one)) for one in SENSIBLE],
)
@pytest.mark.filterwarnings("ignore")  # bitsandbytes and PEFT have a word on many of them; what engaged is checked.
def test_every_sensible_combination_trains(tmp_path: Path, combination: tuple[str, str, str, str]) -> None:
    found = trained(tmp_path / "work", *combination)
    assert len(found) == 2
    assert all(math.isfinite(one["loss"]) and one["grad_norm"] > 0 for one in found) or combination[0] in (
        "grpo",
        "rloo",
    )


def test_the_table_is_printed_and_every_hole_has_its_reason() -> None:
    print("\n" + table())
    found = list(combinations())
    assert {one[0] for one in found} == set(BUILT_IN)
    holes = {why for *_, why in found if why}
    print("\n".join(f"- {why}" for why in sorted(holes)))
    assert all("use" in why or "accepted" in why for why in holes)
    docs = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
    assert table() in docs, "docs/recipes.md shows another table than rules.compatible makes"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parameterisation": "prefix", "training": {"qat": "int4"}}, "training.qat"),
        ({"training": {"qat": "int4", "quantization": "nf4"}}, "training.qat"),
        ({"method": "reward", "parameterisation": "ia3"}, "parameterisation"),
        ({"training": {"weights": "bf16"}}, "training.weights"),
        ({"parameterisation": "full", "training": {"weights": "bf16"}}, "training.optimizer"),
        (
            {
                "parameterisation": "full",
                "training": {"weights": "bf16", "precision": "fp32", "optimizer": "adamw_8bit"},
            },
            "training.weights",
        ),
        (
            {"parameterisation": "prefix", "training": {"gradient_checkpointing": True}},
            "training.gradient_checkpointing",
        ),
        ({"parameterisation": "prompt", "hardware": {"strategy": "zero3"}}, "hardware.strategy"),
        ({"lora": {"use_dora": True}, "training": {"qat": "int4"}}, "lora.use_dora"),
        ({"lora": {"init_lora_weights": "pissa"}, "init_from": "champion"}, "init_from"),
        ({"init_from": "other@12345678"}, "init_from"),
    ],
)
def test_what_does_not_go_together_is_refused_before_money_is_spent(fields: dict[str, Any], field: str) -> None:
    values = {"name": "one", "version": 1, "base": "tiny", **fields}
    values["training"] = {"learning_rate": 0.1, **fields.get("training", {})}
    assert list(contradictions(parse_recipe(values))) == [field]


def test_one_place_says_what_goes_together() -> None:
    assert compatible("sft", "full", weights="bf16") is None
    assert "use lora or full" in (compatible("reward", "prompt") or "")


@pytest.mark.filterwarnings("ignore")
def test_an_nf4_base_still_gives_gradients_after_an_evaluation(tmp_path: Path) -> None:
    """bitsandbytes packs weights for inference on some CPUs, after which they have no gradient."""
    wide_base(tmp_path)
    spec = method_spec(tmp_path / "spec", "sft", None, kind="prompt", quantization="nf4", virtual_tokens=3)
    model = trainable_model(spec, tmp_path / "wide")
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        model.eval()(input_ids=ids)
    model.train()(input_ids=ids).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
