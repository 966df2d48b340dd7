"""Attention by documents: the loss and gradients of the mask, and a failure where a model does not follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import store_in, tiny_spec
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ftplatform.training import attention
from ftplatform.training.attention import BY_DOCUMENT, Documents, by_document, documents_of, engage_attention
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.model import save_weights, trainable_model
from ftplatform.training.shards import IGNORED, Rows, labelled_positions

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 1,
}  # fmt: skip
WINDOWED = {**SMALL, "sliding_window": 5}


def model(kind: str) -> Any:
    torch.manual_seed(7)
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0.0, embd_pdrop=0.0,
                       resid_pdrop=0.0, bos_token_id=1, eos_token_id=1, attn_implementation="sdpa")
        )  # fmt: skip
    made, config = {
        "llama": (LlamaForCausalLM, LlamaConfig(**SMALL)),
        "mistral": (MistralForCausalLM, MistralConfig(**WINDOWED)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL)),
        "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**WINDOWED, sliding_window_pattern=2)),
    }[kind]
    return made._from_config(config, attn_implementation="sdpa")


def rows() -> Rows:
    """Documents of 1 to 20 tokens; the second row begins in the middle of one."""
    lengths = [[20, 1, 11], [7, 9, 16]]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    positions[1, :7] += 3
    ids = torch.randint(2, 64, (2, 32), generator=torch.Generator().manual_seed(1))
    return Rows(ids, torch.where(positions % 3 == 0, IGNORED, ids.roll(-1, 1)), positions)


def loss_and_gradients(model: Any, part: Rows) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with LabelledLogits(model) as labelled:
        loss = labelled.loss_sum(model, part)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma3", "gpt2"])
def test_documents_give_the_loss_and_gradients_of_the_mask(kind: str) -> None:
    net, part = model(kind).train(), rows()
    assert net.config._attn_implementation == "sdpa"
    masked, expected = loss_and_gradients(net, part)
    assert engage_attention(net, "fp32") == BY_DOCUMENT
    loss, gradients = loss_and_gradients(net, part)
    assert loss == pytest.approx(masked, rel=1e-5)
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_documents_are_known_again_when_activations_are_computed_again() -> None:
    net, part = model("llama").train(), rows()
    engage_attention(net, "fp32")
    loss, expected = loss_and_gradients(net, part)
    net.gradient_checkpointing_enable({"use_reentrant": False})
    again, gradients = loss_and_gradients(net, part)
    assert again == loss
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name


def test_no_token_sees_another_document() -> None:
    net, part = model("llama").eval(), rows()
    engage_attention(net, "fp32")
    with LabelledLogits(net) as labelled:
        places = labelled_positions(part.targets)
        before = labelled.packed(net, part, places).values
        changed = Rows(part.input_ids.clone(), part.targets, part.position_ids)
        changed.input_ids[:, 0] = 5
        after = labelled.packed(net, changed, places).values
    row, column = (part.targets != IGNORED).nonzero().T
    first = torch.where(row == 0, column < 20, column < 7)
    assert torch.equal(before[~first], after[~first])
    assert not torch.equal(before[first], after[first])


def test_documents_begin_at_position_0_and_with_every_row() -> None:
    documents = documents_of(rows().position_ids)
    assert documents.lengths == (20, 1, 11, 7, 9, 16)
    assert documents.borders.tolist() == [0, 20, 21, 32, 39, 48, 64]
    assert (documents.borders.dtype, documents.longest) == (torch.int32, 20)


def test_a_model_that_loses_the_documents_fails() -> None:
    net = model("llama")
    engage_attention(net, "fp32")
    for layer in net.model.layers:
        whole = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, documents=None, whole=whole, **rest: whole(*args, **rest)
    with pytest.raises(RuntimeError, match="attention by documents did not engage: LlamaAttention"):
        loss_and_gradients(net, rows())


def test_without_documents_it_is_sdpa_with_and_without_a_mask() -> None:
    net = model("mistral").eval()
    ids = rows().input_ids
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    with torch.no_grad():
        expected = [net(ids).logits, net(ids, attention_mask=mask).logits[:, 6:]]
        engage_attention(net, "fp32")
        assert torch.equal(net(ids).logits, expected[0])
        assert torch.equal(net(ids, attention_mask=mask).logits[:, 6:], expected[1])


def test_attention_loaded_as_eager_and_in_chunks_of_positions_stays() -> None:
    eager = LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="eager")
    assert engage_attention(eager, "fp32") == "eager"
    chunked = model("llama")
    chunked.config.attention_chunk_size = 16
    assert engage_attention(chunked, "fp32") == "sdpa"


@pytest.mark.parametrize(
    ("capability", "installed", "precision", "chosen"),
    [
        ((9, 0), {2, 3}, "bf16", "flash_attention_3"),
        ((8, 0), {2, 3}, "bf16", "flash_attention_2"),
        ((9, 0), {2}, "bf16", "flash_attention_2"),
        ((7, 5), {2, 3}, "bf16", BY_DOCUMENT),
        ((9, 0), {2, 3}, "fp32", BY_DOCUMENT),
        ((9, 0), set(), "bf16", BY_DOCUMENT),
    ],
)
def test_the_newest_flash_attention_that_the_gpu_runs_is_chosen(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], installed: set[int], precision: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: 2 in installed)
    monkeypatch.setattr(attention, "is_flash_attn_3_available", lambda: 3 in installed)
    assert attention.choose_attention(model("llama"), precision) == chosen


def test_flash_attention_is_told_the_borders_that_it_would_not_find_itself() -> None:
    net = model("llama")
    net.config._attn_implementation_internal = "flash_attention_2"
    told = attention.document_inputs(net, rows().position_ids)
    assert told is not None
    assert told["attention_mask"] is None
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 20, 21, 32, 39, 48, 64]
    assert told["max_length_q"] == told["max_length_k"] == 20


def test_under_autocast_documents_are_computed_in_its_precision() -> None:
    draw = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, 2, 6, 4, generator=draw) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = by_document(torch.nn.Identity(), q, k, v, None, documents=Documents((2, 4), torch.tensor([0, 2, 6])))
    assert out.dtype == torch.bfloat16


def test_a_training_attends_by_documents_and_says_nothing_of_it_in_its_weights(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full")
    _, store = store_in(tmp_path)
    base = store.fetch_tree(spec.base_weights, tmp_path / "fetched")
    net = trainable_model(spec, base)
    assert net.config._attn_implementation == BY_DOCUMENT
    saved = save_weights(net, spec, base, tmp_path / "saved")
    assert BY_DOCUMENT not in (saved / "config.json").read_text()
