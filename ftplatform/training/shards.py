"""Packed token shards: what a row holds, which rows make up a step, and who may attend to whom.

A split is one or more safetensors files with three int32 tensors [N, L]: ``input_ids``; ``labels``, aligned with them, -100
where there is no loss; ``position_ids``, which start again at 0 with every packed document (padding is a document of
its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ftplatform.core.errors import DataRefused

IGNORED = -100
_TENSORS = ("input_ids", "labels", "position_ids")
_CHECKED = 4096
"""Rows looked at together when a split is opened."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of packed rows [B, L] lie when the rows are put end to end."""

    lengths: tuple[int, ...]
    borders: torch.Tensor
    """int32 [documents + 1]: the first token of each, and B * L."""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    # As of a tensor, so that loaders pin and move it with the rest of a batch; the lengths stay on the host.

    def to(self, device: torch.device, non_blocking: bool = False) -> Documents:
        return Documents(self.lengths, self.borders.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Documents:
        return Documents(self.lengths, self.borders.pin_memory())


def documents_of(position_ids: torch.Tensor) -> Documents:
    """Documents of rows whose ``position_ids`` [B, L] start again at 0; a row begins a document whatever its first position."""
    starts = position_ids == 0
    starts[:, 0] = True
    end = torch.tensor([starts.numel()], device=starts.device)
    borders = torch.cat([starts.flatten().nonzero()[:, 0], end])
    return Documents(tuple(borders.diff().tolist()), borders.int())


def labelled_positions(targets: torch.Tensor) -> torch.Tensor:
    """int64 [n]: where ``targets`` [B, L] carry loss, as places of the rows put end to end."""
    return (targets != IGNORED).flatten().nonzero()[:, 0]


@dataclass(frozen=True, slots=True)
class Rows:
    """int64 tensors [N, L]; ``targets`` are the labels moved one place left: position t holds the label of t + 1.

    How many positions carry loss, and how long documents are, the host has to know. A batch brings both from its collation;
    rows without them are looked through where they lie, and on a GPU the host waits for that.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    position_ids: torch.Tensor
    labelled: torch.Tensor | None = None
    """``labelled_positions`` of the targets."""
    documents: Documents | None = None

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


class ShardRows:
    """All rows of a split, mapped from its files: memory holds what a step takes, the disk the rest."""

    def __init__(self, files: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
        self._files = list(files)
        counts = torch.tensor([len(ids) for ids, _, _ in self._files])
        self._first = counts.cumsum(0) - counts
        self._count = int(counts.sum())
        self.labelled = torch.cat(
            [(_targets(labels[i : i + _CHECKED], positions[i : i + _CHECKED]) != IGNORED).sum(1)
             for _, labels, positions in self._files for i in range(0, len(labels), _CHECKED)]
        )  # fmt: skip
        """Positions that carry loss, per row: int64 [N]."""

    def __len__(self) -> int:
        return self._count

    @property
    def length(self) -> int:
        """Tokens per row."""
        return int(self._files[0][0].shape[1])

    @property
    def supervised(self) -> int:
        return int(self.labelled.sum())

    def take(self, index: torch.Tensor) -> Rows:
        """The rows with these numbers, copied."""
        file = torch.searchsorted(self._first, index, right=True) - 1
        found = [torch.empty((len(index), self.length), dtype=torch.int64) for _ in _TENSORS]
        for number in file.unique().tolist():
            chosen = file == number
            for out, tensor in zip(found, self._files[number], strict=True):
                out[chosen] = tensor[index[chosen] - self._first[number]].long()
        ids, labels, positions = found
        return Rows(ids, _targets(labels, positions), positions)


def read_shards(paths: Sequence[Path], vocabulary: int, max_length: int) -> ShardRows:
    """Map the files of a split and check that a model can be trained on them.

    Raises:
        DataRefused: a tensor is missing, shapes differ, rows are longer than ``max_length``, a token lies outside the
            vocabulary, or no position carries loss.
    """
    files = [_mapped(path, vocabulary, max_length) for path in paths]
    lengths = sorted({ids.shape[1] for ids, _, _ in files})
    if len(lengths) != 1:
        raise DataRefused(
            f"{len(files)} shard files of one split have rows of {lengths} tokens; accepted is one length"
        )
    rows = ShardRows(files)
    if not rows.supervised:
        raise DataRefused(
            f"shard {paths[0].name}: none of {len(rows) * rows.length} positions carries loss, so there is nothing to learn"
        )
    return rows


def _mapped(path: Path, vocabulary: int, max_length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        missing = [name for name in _TENSORS if name not in set(file.keys())]
        if missing:
            raise DataRefused(
                f"shard {path.name} lacks {', '.join(missing)}: accepted are the tensors {', '.join(_TENSORS)}"
            )
        ids, labels, positions = (file.get_tensor(name) for name in _TENSORS)
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
    return ids, labels, positions


def _targets(labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    targets = torch.full_like(labels, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    # The first token of a document must not be predicted from the document before it.
    targets[:, :-1][positions[:, 1:] == 0] = IGNORED
    return targets


def document_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """Which position may attend to which: bool [B, 1, L, L], causal and inside one document. [B, L] in. It knows of no sliding
    window.
    """
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
        begin, end = step * self._batch, (step + 1) * self._batch
        epochs = range(begin // self._rows, (end - 1) // self._rows + 1)
        firsts = [(number, number * self._rows) for number in epochs]
        return torch.cat([self._epoch(number)[max(0, begin - first) : end - first] for number, first in firsts])

    def _epoch(self, number: int) -> torch.Tensor:
        if number not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == number - 1}
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
            self._epochs[number] = torch.randperm(self._rows, generator=generator)
        return self._epochs[number]
