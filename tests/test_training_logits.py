"""Log-probabilities and distances to a teacher from logits in chunks: the values and gradients of all logits at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed_support import Ran, assert_same_training, divided, in_processes, without_dropout
from safetensors.torch import save_file
from test_training_loss_chunks import VOCABULARY, model_and_rows
from training_support import store_in
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.core.methods import DistillationConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.core.recipe import Strategy
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.job import train
from ftplatform.training.logprobs import Batch, sequence_logprobs, token_logprobs
from ftplatform.training.loss import CHUNK, LabelledLogits
from ftplatform.training.methods.base import Figures
from ftplatform.training.methods.distillation import Distillation
from ftplatform.training.shards import IGNORED, documents_of, labelled_positions

LONG = CHUNK + 100


def batch() -> Batch:
    """Of every method: packed rows, and the same as sequences."""
    rows = model_and_rows()[1]
    return {
        "input_ids": rows.input_ids, "targets": rows.targets, "shift_labels": rows.targets,
        "position_ids": rows.position_ids, "labelled": labelled_positions(rows.targets),
        "documents": documents_of(rows.position_ids),
    }  # fmt: skip


@contextmanager
def watched(*models: Any) -> Iterator[SimpleNamespace]:
    """``sizes``: logits that the output layers made at a time; ``saved``: the most that were kept for the backward pass."""
    found = SimpleNamespace(sizes=[], types=set(), saved=0)

    def made(head: Any, args: Any, out: torch.Tensor) -> None:
        found.sizes.append(len(out))
        found.types.add(out.dtype)

    def saved(tensor: torch.Tensor) -> torch.Tensor:
        # The output layer's weights [V, 16] are kept, too.
        if tensor.shape[1:] == (VOCABULARY,) and len(tensor) > 16:
            found.saved = max(found.saved, len(tensor))
        return tensor

    handles = [model.get_output_embeddings().register_forward_hook(made) for model in models]
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        yield found
    for handle in handles:
        handle.remove()


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in model.parameters()]


def both_ways(
    monkeypatch: pytest.MonkeyPatch, model: Any, compute: Callable[[], torch.Tensor], *others: Any
) -> tuple[SimpleNamespace, torch.Tensor]:
    """What ``compute`` (its sum is the loss) does in chunks, after it gave the same values and gradients all at once."""
    with watched(model, *others) as found:
        chunked = compute()
        ours = gradients(model, chunked.sum())
    with monkeypatch.context() as patch, watched(model, *others) as all_at_once:
        patch.setattr("ftplatform.training.loss.SMALL_VOCABULARY", VOCABULARY)
        whole = compute()
        theirs = gradients(model, whole.sum())
    assert max(all_at_once.sizes) == all_at_once.saved > 2 * CHUNK
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    return found, chunked


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_need_the_logits_of_one_chunk(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    model, one = model_and_rows()[0], batch()
    weights = torch.linspace(-1, 1, len(one["labelled"]))
    found, _ = both_ways(monkeypatch, model, lambda: token_logprobs(model, one, temperature)[0] * weights)
    assert (max(found.sizes), found.saved) == (CHUNK, 0)
    assert found.sizes.count(0) == 1


def test_without_gradients_they_need_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model, one = model_and_rows()[0], batch()
    with torch.no_grad(), watched(model) as found:
        sums, counts = sequence_logprobs(model, one)
    assert max(found.sizes) == CHUNK
    assert counts.tolist() == (one["targets"] != IGNORED).sum(1).tolist()
    logits = model(input_ids=one["input_ids"]).logits.log_softmax(-1)
    each = logits.gather(-1, one["targets"].clamp(min=0)[..., None])[..., 0] * (one["targets"] != IGNORED)
    torch.testing.assert_close(sums, each.sum(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("divergence", "hard_labels"), [("forward", 0.0), ("reverse", 0.5)])
def test_student_and_teacher_have_the_logits_of_one_part(
    monkeypatch: pytest.MonkeyPatch, divergence: Any, hard_labels: float
) -> None:
    (student, _), one = model_and_rows(), batch()
    torch.manual_seed(8)
    teacher = type(student)(student.config).eval().requires_grad_(False)
    options = DistillationConfig(divergence=divergence, hard_labels=hard_labels, temperature=1.5)
    method = Distillation(SimpleNamespace(spec=None), options)  # type: ignore[arg-type]
    method._teacher = teacher
    figures = Figures()
    found, loss = both_ways(monkeypatch, student, lambda: method.loss(student, one, figures), teacher)
    assert (max(found.sizes), found.saved) == (CHUNK // 4, 0)
    if not hard_labels:
        assert figures.take()["kl"] * len(one["labelled"]) * 1.5**2 == pytest.approx(loss.item(), rel=1e-5)


def test_an_output_layer_that_cannot_be_called_apart_gives_all_logits_and_no_copies_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, one = model_and_rows()[0], batch()
    monkeypatch.setattr(LabelledLogits, "_apart", lambda self: False)
    found, _ = both_ways(monkeypatch, model, lambda: token_logprobs(model, one)[0])
    assert max(found.sizes) == len(one["labelled"])
    # What is kept is a view of the logits, a chunk of them; their softmax is made again.
    assert found.saved == CHUNK


def test_chunks_are_computed_in_the_precision_of_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model, one = model_and_rows()[0], batch()
    forward = model.forward

    def as_the_trainer_does(*args: Any, **inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", as_the_trainer_does)
    with watched(model) as found:
        token_logprobs(model, one)[0].sum().backward()
    assert (found.types, max(found.sizes)) == ({torch.bfloat16}, CHUNK)


def test_a_model_that_is_wrapped_for_several_processes_is_taken_in_chunks() -> None:
    model, one = model_and_rows()[0], batch()
    expected = gradients(model, token_logprobs(model, one)[0].sum())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        with watched(model) as found:
            ours = gradients(model, token_logprobs(wrapped, one)[0].sum())
    finally:
        dist.destroy_process_group()
    assert max(found.sizes) == CHUNK
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def _large(folder: Path, **fields: Any) -> TrainSpec:
    """A vocabulary whose logits are taken in chunks, and rows with more labels than a chunk has."""
    spec, store = without_dropout(folder, "full", evaluate_every=2, **fields), store_in(folder)[1]
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LONG, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    shards = {}
    for split, count in (("train", 8), ("validation", 3)):
        ids = torch.randint(2, VOCABULARY, (count, LONG), dtype=torch.int32)
        rows = {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(LONG).int().repeat(count, 1)}
        save_file(rows, folder / f"large-{split}")
        shards[split] = (store.put_file(folder / f"large-{split}"),)
    changes = {"base_weights": store.put_tree(folder / "base"), "shards": shards, "max_length": LONG}
    return spec.model_copy(update=changes)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_train_a_large_vocabulary_as_one_does(tmp_path: Path, strategy: Strategy) -> None:
    spec, place = _large(tmp_path), tmp_path / "alone"
    place.mkdir()
    alone = Ran(spec, train(spec, PayloadIO(place), store_in(tmp_path)[1]), [])
    assert_same_training(tmp_path, alone, in_processes(tmp_path, divided(spec, strategy)))
