"""A GPU never makes the host wait within a micro-batch: nothing is read back from it, neither a number nor how many are true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from methods_support import flat, kto, method_spec, pairs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory
from training_support import store_in, tiny_spec

from ftplatform.training.methods.base import Figures, TrainingMethod, Work, open_method

READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")
"""What CUDA synchronises for. A boolean index counts its true elements, too."""


class Reads(TorchDispatchMode):
    """Operators that read values back, by name. ``tolist`` and ``numpy`` of a CPU tensor pass by all operators: ``reads``
    notes them itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        boolean = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if name in READS or boolean:
            self.found.append(name)
        return function(*args, **kwargs or {})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    mode = Reads()
    for name in ("tolist", "numpy", "cpu"):
        method = getattr(torch.Tensor, name)

        def noted(self: torch.Tensor, *args: Any, name: str = name, method: Any = method) -> Any:
            mode.found.append(name)
            return method(self, *args)

        monkeypatch.setattr(torch.Tensor, name, noted)
    return mode


def opened(folder: Path, name: str) -> tuple[TrainingMethod, Any, Any]:
    """A method with its model, in the attention of a training, and its examples."""
    spec = tiny_spec(folder, dropout=0.0)
    if name == "distillation":
        spec = method_spec(folder, name, None, {"teacher": "starter@0a1b2c3d", "hard_labels": 0.5})
        spec = spec.model_copy(update={"teacher_weights": spec.base_weights})
    elif name != "sft":
        spec = method_spec(folder, name, {"train": kto(8, 0) if name == "kto" else flat(pairs(8, 0))})
    store = store_in(folder)[1]
    work = Work(
        spec, store, store.fetch_tree(spec.base_weights, folder / "fetched"), folder / "work", lambda said: None
    )
    method = open_method(work)
    model = method.model()
    examples = method.read([store.path(spec.shards["train"][0])], model.get_input_embeddings().num_embeddings)
    method.begin(model, {"train": examples})
    return method, model, examples


@pytest.mark.parametrize("name", ["sft", "distillation", "dpo", "orpo", "kto", "reward"])
def test_a_micro_batch_is_computed_without_reading_anything_back(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # The library's own look for packed rows, once a forward of sequences without a mask. Packed rows of ours have one.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    method, model, examples = opened(tmp_path, name)
    batch, figures = examples.collate([0, 1, 2]), Figures()
    reads.found.clear()
    with reads:
        [batch] = method.prepare(model, [batch], examples, 0)
        loss = method.loss(model, batch, figures)
        loss.backward()
    assert reads.found == []
    assert loss.isfinite()


def test_a_batch_is_pinned_and_moved_with_its_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's loader and accelerate do; pinning itself needs a GPU, for which stands a copy."""
    _, _, examples = opened(tmp_path, "sft")
    batch = examples.collate([0, 1])
    lengths = batch["documents"].lengths
    assert lengths == (16, 16, 16, 16)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    pinned = pin_memory(batch)
    assert pinned["documents"].borders.tolist() == [0, 16, 32, 48, 64]
    assert pinned["documents"].borders is not batch["documents"].borders
    moved = send_to_device(pinned, torch.device("meta"), non_blocking=True)
    assert {name: value.device.type for name, value in moved.items() if name != "documents"} == dict.fromkeys(
        ("input_ids", "position_ids", "labels", "shift_labels", "labelled"), "meta"
    )
    assert (moved["documents"].lengths, moved["documents"].borders.device.type) == (lengths, "meta")
