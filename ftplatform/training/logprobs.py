"""Log-probabilities of answers, in nats, from logits at labelled positions only."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from ftplatform.training.loss import LabelledLogits
from ftplatform.training.shards import IGNORED

Batch = dict[str, torch.Tensor]


def token_logprobs(model: Any, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every labelled token: its log-probability (float32 [n]) and the number of its sequence (int64 [n]).

    ``input_ids`` and ``targets`` [S, L] are padded on the right, where causal attention never looks, so no mask is
    needed. ``temperature`` divides the logits, as it did when the tokens were drawn.
    """
    labelled = batch["targets"] != IGNORED
    with LabelledLogits(extract_model_from_parallel(model)) as thinned:
        logits = thinned.logits(model, labelled, input_ids=batch["input_ids"], attention_mask=None)
    targets = batch["targets"][labelled]
    scores = logits.float() if temperature == 1.0 else logits.float() / temperature
    return -torch.nn.functional.cross_entropy(scores, targets, reduction="none"), labelled.nonzero()[:, 0]


def sequence_logprobs(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every sequence: the sum of its labelled tokens' log-probabilities, and their number. Both float32 [S]."""
    tokens, owner = token_logprobs(model, batch)
    none = torch.zeros(len(batch["input_ids"]), dtype=tokens.dtype, device=tokens.device)
    return none.index_add(0, owner, tokens), none.index_add(0, owner, torch.ones_like(tokens))
