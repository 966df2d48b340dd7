"""The loss in chunks: the same loss and gradients as at once, and never more logits than a chunk has."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.training.loss import CHUNK, LabelledLogits
from ftplatform.training.shards import IGNORED, Rows

VOCABULARY = 9000


def model_and_rows() -> tuple[LlamaForCausalLM, Rows]:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        attn_implementation="sdpa",
    )
    ids = torch.randint(0, VOCABULARY, (3, 800))
    targets = torch.where(torch.rand(3, 800) < 0.9, ids.roll(-1, 1), torch.tensor(IGNORED))
    assert int((targets != IGNORED).sum()) > 2 * CHUNK
    return LlamaForCausalLM(config), Rows(ids, targets, torch.arange(800).expand(3, 800).contiguous())


def loss_and_gradients(model: LlamaForCausalLM, rows: Rows) -> tuple[float, list[torch.Tensor], list[int]]:
    sizes: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda head, args, out: sizes.append(len(out)))
    model.zero_grad()
    with LabelledLogits(model) as labelled:
        loss = labelled.loss_sum(model, rows)
    loss.backward()
    handle.remove()
    return loss.item(), [weight.grad.clone() for weight in model.parameters()], sizes


def test_chunks_give_the_loss_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = model_and_rows()
    loss, gradients, sizes = loss_and_gradients(model, rows)
    monkeypatch.setattr("ftplatform.training.loss.SMALL_VOCABULARY", VOCABULARY)
    whole_loss, whole_gradients, whole_sizes = loss_and_gradients(model, rows)
    assert max(sizes) == CHUNK
    assert max(whole_sizes) == int((rows.targets != IGNORED).sum())
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for chunked, whole in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)


def test_a_model_that_rescales_its_logits_is_not_taken_in_chunks() -> None:
    model, rows = model_and_rows()
    model.config.logit_scale = 0.5
    assert max(loss_and_gradients(model, rows)[2]) == int((rows.targets != IGNORED).sum())
