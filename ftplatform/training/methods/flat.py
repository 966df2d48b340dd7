"""Units made of flat sequences, and the starting model's log-probabilities of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ftplatform.training.fingerprint import PROMPT_TOKENS
from ftplatform.training.flat_shards import FlatRows, padded
from ftplatform.training.logprobs import Batch, sequence_logprobs
from ftplatform.training.methods.base import Work
from ftplatform.training.methods.splits import evaluating, micro_batches
from ftplatform.training.ranks import summed, world
from ftplatform.training.votes import highest


class FlatExamples:
    """Units of ``width`` sequences each: 2 for pairs (chosen, rejected), else 1."""

    def __init__(self, rows: FlatRows, width: int) -> None:
        self.rows, self.width = rows, width
        self.tokens = rows.lengths.reshape(-1, width).sum(1)
        self.labelled = rows.labelled.reshape(-1, width).sum(1)
        self.reference: torch.Tensor | None = None
        """The starting model's log-probabilities of the learned tokens: float32 [N, width]."""

    def __len__(self) -> int:
        return len(self.tokens)

    def collate(self, units: list[int]) -> Batch:
        """Sequences [width * B, L]: first every unit's first one, then every second one."""
        numbers = [unit * self.width + part for part in range(self.width) for unit in units]
        batch = {**padded([self.rows.sequence(number) for number in numbers]), "unit": torch.tensor(units)}
        if self.reference is not None:
            batch["reference"] = self.reference[units].T.flatten()
        return batch

    def probe(self) -> list[int]:
        end = max(1, min(PROMPT_TOKENS, int(self.rows.prompt_lengths[0])))
        return [int(token) for token in self.rows.sequence(0)[0][:end]]


@torch.no_grad()
def starting_logprobs(work: Work, model: Any, examples: Any, name: str) -> torch.Tensor:
    """Log-probabilities of every sequence under ``model`` as it is now, float32 [N, width], in eval mode.

    Computed once and kept in the store as ``references/<key>/<name>``: an attempt that resumes has the same numbers to
    the last bit, and needs neither a second model nor a second forward pass. Processes share the work. Before the first
    checkpoint is loaded the model is the starting one, whatever its parameterisation.
    """
    document, rank = f"references/{work.spec.key}/{name}", world()[0]
    # Processes that looked each for itself could see another store: one would read, and the others wait for it to compute.
    if highest(int(rank == 0 and work.store.find_doc(document) is not None)):
        found = work.store.get_doc(document)
        stored = np.frombuffer(work.store.get_bytes(found["object"]), dtype="<f4")
        return torch.from_numpy(stored.copy()).reshape(len(examples), -1)
    sums = torch.zeros((len(examples), getattr(examples, "width", 1)))
    doing = f"log-probabilities of the starting model ({name})"
    with evaluating(model):
        for units, batch in micro_batches(model, examples, work.spec.micro_batch, work.alive, doing):
            found_sums = sequence_logprobs(model, batch)[0].float().cpu()
            if units:
                sums[units] = found_sums.reshape(-1, len(units)).T
    sums = summed(sums)
    if rank == 0:
        data = sums.numpy().astype("<f4").tobytes()
        work.store.put_doc(document, {"object": work.store.put_bytes(data)})
    return sums
