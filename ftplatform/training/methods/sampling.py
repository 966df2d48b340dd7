"""Answers drawn from the model in training, each from random numbers of its own.

A token is drawn by inverting the cumulative distribution at a uniform number that depends on seed, step, prompt and answer
alone: a resumed step draws the same answers, and so does one with another micro-batch or number of processes, up to the
last bits of the probabilities. The library's own sampling draws from the one global generator, in the order of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ftplatform.training.methods.splits import evaluating


def uniforms(count: int, *name: int) -> torch.Tensor:
    """float32 [count] in [0, 1), a function of the numbers in ``name``."""
    seed = int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8]) >> 1
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


class Drawn(LogitsProcessor):
    """Leaves only the drawn token possible. ``draws`` [S, T] has a column per generated token."""

    def __init__(self, draws: torch.Tensor, prompt: int, temperature: float) -> None:
        self._draws, self._prompt, self._temperature = draws, prompt, temperature

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        sums = (scores.float() / self._temperature).softmax(-1).cumsum(-1)
        draw = self._draws[:, input_ids.shape[1] - self._prompt, None] * sums[:, -1:]
        token = torch.searchsorted(sums, draw, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


@torch.no_grad()
def answer(
    model: Any,
    prompts: Sequence[torch.Tensor],
    draws: torch.Tensor,
    *,
    temperature: float,
    stop_ids: Collection[int],
    pad_id: int,
) -> list[torch.Tensor]:
    """Token ids of one answer per prompt, up to and with the first stop token; ``draws`` [prompts, longest answer]."""
    device, longest = next(model.parameters()).device, max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    # What is left open here, the base's own generation_config.json would fill in; a penalty there would bend the
    # distribution that the loss takes the answers to come from.
    config = GenerationConfig(
        max_new_tokens=draws.shape[1], do_sample=False, num_beams=1, eos_token_id=sorted(stop_ids), pad_token_id=pad_id,
        repetition_penalty=1.0, no_repeat_ngram_size=0,
    )  # fmt: skip
    with evaluating(model):
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=LogitsProcessorList([Drawn(draws.to(device), longest, temperature)]),
        )[:, longest:].cpu()
    stops = torch.isin(out, torch.tensor(sorted(stop_ids)))
    ends = [int(row.nonzero()[0]) + 1 if row.any() else len(row) for row in stops]
    return [row[:end] for row, end in zip(out, ends, strict=True)]
