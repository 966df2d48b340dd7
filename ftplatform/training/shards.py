"""Packed token shards: what a row holds, which rows make up a step, and who may attend to whom.

A shard is one safetensors file with three int32 tensors [N, L]: ``input_ids``; ``labels``, aligned with them, -100
where there is no loss; ``position_ids``, which start again at 0 with every packed document (padding is a document of
its own).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ftplatform.core.errors import DataRefused

IGNORED = -100
_TENSORS = ("input_ids", "labels", "position_ids")


@dataclass(frozen=True, slots=True)
class Rows:
    """int64 tensors [N, L]; ``targets`` are the labels moved one place left: position t holds the label of t + 1."""

    input_ids: torch.Tensor
    targets: torch.Tensor
    position_ids: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    def take(self, index: torch.Tensor) -> Rows:
        return Rows(self.input_ids[index], self.targets[index], self.position_ids[index])

    def to(self, device: torch.device) -> Rows:
        return Rows(self.input_ids.to(device), self.targets.to(device), self.position_ids.to(device))

    @property
    def supervised(self) -> int:
        """Positions that carry loss."""
        return int((self.targets != IGNORED).sum())


def read_shard(path: Path, vocabulary: int, max_length: int) -> Rows:
    """Read a shard and check that a model can be trained on it.

    Raises:
        DataRefused: a tensor is missing, shapes differ, rows are longer than ``max_length``, a token lies outside the
            vocabulary, or no position carries loss.
    """
    with safe_open(path, framework="pt") as file:
        missing = [name for name in _TENSORS if name not in set(file.keys())]
        if missing:
            raise DataRefused(
                f"shard {path.name} lacks {', '.join(missing)}: accepted are the tensors {', '.join(_TENSORS)}"
            )
        ids, labels, positions = (file.get_tensor(name).long() for name in _TENSORS)
    if ids.ndim != 2 or ids.shape != labels.shape or ids.shape != positions.shape or not len(ids):
        shapes = [tuple(t.shape) for t in (ids, labels, positions)]
        raise DataRefused(
            f"shard {path.name}: tensors have shapes {shapes}; accepted is one common [rows >= 1, length]"
        )
    if ids.shape[1] > max_length:
        raise DataRefused(f"shard {path.name}: rows hold {ids.shape[1]} tokens, the plan allows {max_length}")
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise DataRefused(
            f"shard {path.name}: token ids run from {int(ids.min())} to {int(ids.max())}, the base model has "
            f"{vocabulary}; the shards were made with another tokenizer"
        )
    targets = torch.full_like(labels, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    # The first token of a document must not be predicted from the document before it.
    targets[:, :-1][positions[:, 1:] == 0] = IGNORED
    rows = Rows(ids, targets, positions)
    if not rows.supervised:
        raise DataRefused(
            f"shard {path.name}: none of {ids.numel()} positions carries loss, so there is nothing to learn"
        )
    return rows


def document_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """Which position may attend to which: bool [B, 1, L, L], causal and inside one document. [B, L] in."""
    documents = (position_ids == 0).cumsum(1)
    same = documents[:, :, None] == documents[:, None, :]
    return torch.tril(same)[:, None]


class RowOrder:
    """The rows of every step, from the seed alone: epochs of shuffled rows end to end, cut into effective batches.

    Nothing is stored and nothing drifts: step ``n`` has the same rows in every attempt, so a checkpoint's data position
    is its step number.
    """

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        self._rows, self._batch, self._seed = rows, batch, seed
        self._epochs: dict[int, torch.Tensor] = {}

    def of_step(self, step: int) -> torch.Tensor:
        """Row numbers [batch] of step ``step``, counted from 0."""
        places = range(step * self._batch, (step + 1) * self._batch)
        return torch.stack([self._epoch(place // self._rows)[place % self._rows] for place in places])

    def _epoch(self, number: int) -> torch.Tensor:
        if number not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == number - 1}
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
            self._epochs[number] = torch.randperm(self._rows, generator=generator)
        return self._epochs[number]
