"""The second rung of the memory ladder in a real payload: one sequence does not fit, with its activations computed again it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_training_recovery import losses
from test_training_recovery_platform import JOB, drive, limited
from training_support import VOCABULARY, store_in, tiny_spec
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.assets.payloads import attempts_of
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.launchers import LocalLauncher

TOKENS = 2048


def deep_spec(folder: Path) -> TrainSpec:
    """Rows of 2,048 tokens through 24 narrow blocks: activations of some 500 MB a row, of 30 MB with one block at a time."""
    spec, store = (
        tiny_spec(folder, kind="full", steps=3, batch_size=2, dropout=0.0, max_length=TOKENS),
        store_in(folder)[1],
    )
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=256, num_hidden_layers=24, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=TOKENS, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    ids = torch.randint(2, VOCABULARY, (6, TOKENS), generator=torch.Generator().manual_seed(3)).to(torch.int32)
    positions = torch.arange(TOKENS, dtype=torch.int32).expand_as(ids).contiguous()
    save_file({"input_ids": ids, "labels": ids.clone(), "position_ids": positions}, folder / "deep")
    changes = {
        "micro_batch": 1,
        "accumulation": 2,
        "max_length": TOKENS,
        "base_weights": store.put_tree(folder / "base"),
    }
    return spec.model_copy(update={**changes, "shards": {"train": (store.put_file(folder / "deep"),)}})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_sequence_that_does_not_fit_goes_on_with_its_activations_computed_again_and_learns_the_same(
    tmp_path: Path,
) -> None:
    spec = deep_spec(tmp_path)
    undisturbed, _, _ = drive(spec.model_copy(update={"key": "b" * 64}), LocalLauncher(tmp_path / "payloads"))
    result, log, parts = drive(spec, LocalLauncher(tmp_path / "payloads", command=limited(530 << 20)))
    assert isinstance(undisturbed, PayloadResult), undisturbed
    assert isinstance(result, PayloadResult), result
    first, second = attempts_of(parts, JOB, spec.key)
    assert (first["outcome"], second["outcome"]) == ("out_of_memory", "done")
    assert (
        "the next attempt changes gradient_checkpointing False -> True; the effective batch stays" in first["message"]
    )
    assert "gradient_checkpointing False -> True" in log
    assert result.numbers["attempts"] == 2
    assert losses(tmp_path, result) == pytest.approx(losses(tmp_path, undisturbed), abs=1e-5)
