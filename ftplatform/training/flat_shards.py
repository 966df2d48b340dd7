"""Flat shards: sequences of unequal length end to end, for pairs, labelled answers and prompts.

The tensors are those of ``data/tokens/shards.py``, layouts ``preference``, ``kto`` and ``prompts``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ftplatform.core.errors import DataRefused
from ftplatform.training.shards import IGNORED, labelled_positions

_TENSORS = ("input_ids", "learned", "offsets", "prompt_lengths")


class FlatRows:
    """All sequences of a split, mapped from its files."""

    def __init__(self, files: Sequence[dict[str, torch.Tensor]]) -> None:
        self._files = list(files)
        counts = torch.tensor([len(file["prompt_lengths"]) for file in self._files])
        self._first = counts.cumsum(0) - counts
        self.lengths = torch.cat([file["offsets"].diff() for file in self._files])
        """Tokens per sequence: int64 [S]."""
        self.prompt_lengths = torch.cat([file["prompt_lengths"].long() for file in self._files])
        """Tokens before the first learned one: int64 [S]."""
        self.labelled = torch.cat([_labelled(file) for file in self._files])
        """Learned tokens that something stands in front of, per sequence: int64 [S]."""

    def __len__(self) -> int:
        return len(self.lengths)

    def sequence(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids int64 [T] and whether they are learned, bool [T]."""
        file, at = self._place(number)
        begin, end = int(file["offsets"][at]), int(file["offsets"][at + 1])
        return file["input_ids"][begin:end].long(), file["learned"][begin:end].bool()

    def good(self, number: int) -> bool:
        """Layout kto: whether the answer is a good one."""
        file, at = self._place(number)
        return bool(file["labels"][at])

    def extra(self, number: int) -> dict[str, Any]:
        """Layout prompts: what a grader reads beside the answer."""
        file, at = self._place(number)
        begin, end = int(file["extra_offsets"][at]), int(file["extra_offsets"][at + 1])
        value: dict[str, Any] = json.loads(file["extra"][begin:end].numpy().tobytes() or b"{}")
        return value

    def _place(self, number: int) -> tuple[dict[str, torch.Tensor], int]:
        file = int(torch.searchsorted(self._first, number, right=True)) - 1
        return self._files[file], number - int(self._first[file])


def padded(sequences: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``targets`` int64 [S, longest], padded on the right, ``lengths`` [S], and ``labelled`` [n], the
    ``labelled_positions`` of the targets; those are shifted as in ``Rows``.
    """
    longest = max(len(ids) for ids, _ in sequences)
    input_ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
    targets = torch.full((len(sequences), longest), IGNORED)
    for row, (ids, learned) in enumerate(sequences):
        input_ids[row, : len(ids)] = ids
        targets[row, : len(ids) - 1] = torch.where(learned[1:], ids[1:], IGNORED)
    lengths = torch.tensor([len(ids) for ids, _ in sequences])
    labelled = labelled_positions(targets)
    return {"input_ids": input_ids, "targets": targets, "lengths": lengths, "labelled": labelled}


def read_flat(paths: Sequence[Path], vocabulary: int, max_length: int, extra: tuple[str, ...] = ()) -> FlatRows:
    """Map the files of a split and check that a model can be trained on them.

    Raises:
        DataRefused: a tensor is missing (``extra`` names those beyond the common ones), a sequence is empty or longer
            than ``max_length``, a token lies outside the vocabulary, or there is no sequence.
    """
    rows = FlatRows([_mapped(path, vocabulary, (*_TENSORS, *extra)) for path in paths])
    if not len(rows) or int(rows.lengths.min()) < 1 or int(rows.lengths.max()) > max_length:
        found = f"{int(rows.lengths.min())} to {int(rows.lengths.max())} tokens" if len(rows) else "no sequence"
        raise DataRefused(f"shard {paths[0].name}: found {found}; accepted are sequences of 1 to {max_length} tokens")
    return rows


def _mapped(path: Path, vocabulary: int, names: Sequence[str]) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        missing = [name for name in names if name not in set(file.keys())]
        if missing:
            raise DataRefused(
                f"shard {path.name} lacks {', '.join(missing)}: accepted for this method are the tensors {', '.join(names)}"
            )
        tensors = {name: file.get_tensor(name) for name in names}
    ids = tensors["input_ids"]
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise DataRefused(
            f"shard {path.name}: token ids run from {int(ids.min())} to {int(ids.max())}, the base model has "
            f"{vocabulary}; the shards were made with another tokenizer"
        )
    return tensors


def _labelled(file: dict[str, torch.Tensor]) -> torch.Tensor:
    learned, offsets = file["learned"].long(), file["offsets"].long()
    sums = torch.cat([torch.zeros(1, dtype=torch.int64), learned.cumsum(0)])
    return sums[offsets[1:]] - sums[torch.minimum(offsets[:-1] + 1, offsets[1:])]
