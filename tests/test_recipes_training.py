"""Trainings of every parameterisation through the payload's own model and saving, on a tiny base."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import LENGTH, VOCABULARY, store_in, tiny_spec
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.core.payload import PayloadResult, TrainSpec


def run(spec: TrainSpec, folder: Path) -> PayloadResult:
    """The payload as a launcher starts it, in a process of its own."""
    folder.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "ftplatform.training", str(folder / "spec.json")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    result = folder / "result.json"
    assert result.exists(), done.stderr[-3000:]
    return PayloadResult.model_validate_json(result.read_text())


def wide_base(folder: Path) -> str:
    """As ``tiny_base`` with 64 hidden units: on a CPU bitsandbytes evaluates no nf4 matrix narrower than its blocks."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=LENGTH, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder / "wide")
    return store_in(folder)[1].put_tree(folder / "wide")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lora", "training"),
    [
        ("lora", {"use_rslora": True}, {}),
        ("lora", {"use_dora": True}, {}),
        ("lora", {"init_lora_weights": "pissa"}, {}),
        ("lora", {"layers_to_transform": (1,)}, {}),
        ("lora", {}, {"quantization": "nf4"}),
        ("lora", {}, {"quantization": "int8"}),
        ("lora", {}, {"optimizer": "adamw_8bit"}),
        ("lora", {}, {"optimizer": "paged_adamw_32bit"}),
        ("ia3", {}, {"learning_rate": 0.05}),
        ("full", {}, {"frozen_layers": (0,), "frozen_embeddings": True, "dropout": 0.0}),
    ],
    ids=str,
)
def test_a_training_learns_and_its_saved_weights_answer_for_themselves(
    tmp_path: Path, kind: str, lora: dict[str, Any], training: dict[str, Any]
) -> None:
    spec = tiny_spec(tmp_path / "work", kind=kind, steps=24, **{"learning_rate": 0.02, **training})
    spec = spec.model_copy(update={"lora": spec.lora.model_copy(update=lora)})
    if training.get("quantization") == "nf4":
        spec = spec.model_copy(update={"base_weights": wide_base(tmp_path / "work")})
    found = run(spec, tmp_path / "payload")
    assert found.outcome == "done", found.message
    store = store_in(tmp_path / "work")[1]
    losses = [json.loads(line)["loss"] for line in store.get_bytes(found.artifacts["metrics"]).splitlines()]
    # Rows differ from step to step, so a few of them are compared. Random tokens hold nothing that ia3's few factors could learn
    # in so few steps; tests/test_recipes_adapters.py has it learn one batch.
    assert kind == "ia3" or sum(losses[-4:]) < sum(losses[:4])
    names = {file.path for file in store.tree(found.artifacts["weights"]).files}
    assert ("adapter_config.json" in names) == (kind != "full")
    proof = store.get_json(found.artifacts["fingerprint"])
    assert len(proof["token_ids"]) == 16
