"""Log-probabilities of answers, in nats, from logits at labelled positions only."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.nn.functional import cross_entropy

from ftplatform.training.loss import LabelledLogits, in_chunks
from ftplatform.training.shards import labelled_positions

Batch = dict[str, Any]
"""Tensors by name, and ``Documents``: whatever can be sent ``to`` a device."""


def labelled_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every labelled token of ``targets`` [S, L]: its place when the rows are put end to end, and the number of its
    sequence. Both int64 [n].
    """
    targets = batch["targets"]
    # A batch without it is looked through here, and on a GPU the host waits for that.
    labelled = batch["labelled"] if "labelled" in batch else labelled_positions(targets)
    return labelled, labelled // targets.shape[1]


def token_logprobs(model: Any, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every labelled token: its log-probability (float32 [n]) and the number of its sequence (int64 [n]).

    ``input_ids`` and ``targets`` [S, L] are padded on the right, where causal attention never looks, so no mask is
    needed; ``labelled`` says where targets are (``flat_shards.padded``). ``temperature`` divides the logits, as it did
    when the tokens were drawn.
    """
    labelled, owner = labelled_of(batch)

    def of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        scores = logits.float() if temperature == 1.0 else logits.float() / temperature
        return -cross_entropy(scores, targets, reduction="none")

    with LabelledLogits(extract_model_from_parallel(model)) as thinned:
        logits = thinned.at(model, labelled, input_ids=batch["input_ids"], attention_mask=None)
    targets = batch["targets"].flatten().index_select(0, labelled)
    return torch.cat(in_chunks(of, [logits], targets)), owner


def sequence_logprobs(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every sequence: the sum of its labelled tokens' log-probabilities, and their number. Both float32 [S]."""
    tokens, owner = token_logprobs(model, batch)
    none = torch.zeros(len(batch["input_ids"]), dtype=tokens.dtype, device=tokens.device)
    return none.index_add(0, owner, tokens), none.index_add(0, owner, torch.ones_like(tokens))
