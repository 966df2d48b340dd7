"""Next-token likelihood of packed rows: supervised fine-tuning, and continued pre-training on every token of documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from ftplatform.training.fingerprint import probe_prompt
from ftplatform.training.logprobs import Batch
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.methods.base import Figures, TrainingMethod
from ftplatform.training.shards import Rows, ShardRows, documents_of, labelled_positions, read_shards


class PackedExamples:
    """Packed rows as units."""

    def __init__(self, rows: ShardRows) -> None:
        self.rows, self.labelled = rows, rows.labelled
        self.tokens = torch.full((len(rows),), rows.length)

    def __len__(self) -> int:
        return len(self.rows)

    def collate(self, units: list[int]) -> Batch:
        part = self.rows.take(torch.tensor(units))
        # ``labels`` tells the Trainer to count tokens, ``shift_labels`` that they are shifted already.
        return {
            "input_ids": part.input_ids,
            "position_ids": part.position_ids,
            "labels": part.targets,
            "shift_labels": part.targets,
            "labelled": labelled_positions(part.targets),
            "documents": documents_of(part.position_ids),
        }

    def probe(self) -> list[int]:
        return probe_prompt(self.rows)


def packed(batch: Batch) -> Rows:
    return Rows(batch["input_ids"], batch["shift_labels"], batch["position_ids"], batch["labelled"], batch["documents"])


class PackedMethod(TrainingMethod):
    """A method that learns from packed rows, weighing every labelled token alike."""

    def read(self, paths: Sequence[Path], vocabulary: int) -> PackedExamples:
        return PackedExamples(read_shards(paths, vocabulary, self.spec.max_length))

    def weight(self, examples: PackedExamples) -> int:
        return examples.rows.supervised


class NextToken(PackedMethod):
    def worst_loss(self, vocabulary: int) -> float:
        # Twice that of guessing.
        return 2 * math.log(vocabulary)

    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        with LabelledLogits(extract_model_from_parallel(model)) as labelled:
            return labelled.loss_sum(model, packed(batch))
