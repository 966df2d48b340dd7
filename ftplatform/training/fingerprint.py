"""The proof of identity that an engine repeats: greedy tokens of a fixed prompt and their log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ftplatform.training.model import load_base
from ftplatform.training.shards import ShardRows
from ftplatform.training.stack import put_on
from ftplatform.training.stored import compute_in_fp32

PROMPT_TOKENS = 16
ANSWER_TOKENS = 16


def probe_prompt(rows: ShardRows) -> list[int]:
    """The first 16 tokens, or fewer, of the first document of the first row."""
    row = rows.take(torch.tensor([0]))
    ends = (row.position_ids[0, 1:] == 0).nonzero()
    length = int(ends[0]) + 1 if len(ends) else rows.length
    return [int(token) for token in row.input_ids[0, : min(length, PROMPT_TOKENS)]]


def fingerprint(base: Path, weights: Path, kind: str, prompt_ids: list[int]) -> dict[str, Any]:
    """Load the saved weights anew and answer: ``{"prompt_ids", "token_ids", "logprobs"}``.

    16 greedy tokens (an end of turn does not stop them) and the natural logarithm of each one's probability, float32,
    eval mode. Host memory holds the embeddings and one block in fp32; the rest is mapped from the files.
    """
    model, start = compute_in_fp32(load_base(weights if kind == "full" else base, stored=True)).eval(), None
    if kind != "full":
        model, start = put_on(model, weights)
    ids, logprobs = list(prompt_ids), []
    with torch.inference_mode():
        for _ in range(ANSWER_TOKENS):
            cache = start.cache(model.config, 1) if start else None
            out = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None)
            scores = out.logits[0, -1].float().log_softmax(-1)
            ids.append(int(scores.argmax()))
            logprobs.append(float(scores[ids[-1]]))
    return {"prompt_ids": prompt_ids, "token_ids": ids[len(prompt_ids) :], "logprobs": logprobs}
