"""Log-probabilities of several continuations of one prompt, with the prompt computed once. Payload side.

lm-eval feeds the prompt again for every choice: 500 items of four choices and 60 prompt tokens took 5.9 s of CPU with
the base and 7.3 s with an adapter (1.1 M parameters, one thread); this takes 3.4 and 3.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ftplatform.training.virtual import VirtualTokens

Ids = list[int]
Answer = tuple[float, bool]
"""Sum of the continuation's log-probabilities, and whether greedy decoding would have written it."""


def choice_log_probabilities(
    model: Any,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    prompts_per_batch: int,
    beat: Callable[[], None],
    start: VirtualTokens | None = None,
) -> list[Answer]:
    """An answer per (prompt, continuation) pair, in the order of ``pairs``; both are token ids and neither is empty.

    ``start`` stands in front of every prompt.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, _) in enumerate(pairs):
        by_prompt.setdefault(tuple(prompt), []).append(index)
    # Longest first: least padding, and a batch that does not fit in memory fails at once.
    groups = sorted(by_prompt.items(), key=lambda group: (-len(group[0]), group[0]))
    answers: dict[int, Answer] = {}
    for at in range(0, len(groups), prompts_per_batch):
        beat()
        batch = groups[at : at + prompts_per_batch]
        indices = [index for _, members in batch for index in members]
        rows = [row for row, (_, members) in enumerate(batch) for _ in members]
        found = _batch(
            model, [list(prompt) for prompt, _ in batch], rows, [pairs[index][1] for index in indices], start
        )
        answers.update(zip(indices, found, strict=True))
    return [answers[index] for index in range(len(pairs))]


@torch.no_grad()
def _batch(
    model: Any, prompts: list[Ids], rows: list[int], continuations: list[Ids], start: VirtualTokens | None
) -> list[Answer]:
    """``rows`` names the prompt of each continuation."""
    device = model.device
    longest, width = max(map(len, prompts)), max(map(len, continuations))
    # Padded on the left, so that every prompt ends in the same column and its last logits are the last ones.
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    begun = start.cache(model.config, len(ids)) if start else None
    mask = start.mask(mask) if start else mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -longest:]
    first = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=begun,
        use_cache=True,
        logits_to_keep=1,
    )
    pick = torch.tensor(rows, device=device)
    targets = torch.tensor([c + [0] * (width - len(c)) for c in continuations], device=device)
    real = torch.tensor([[True] * len(c) + [False] * (width - len(c)) for c in continuations], device=device)
    logits = first.logits[:, -1:][pick]
    if width > 1:
        cache = first.past_key_values
        cache.batch_select_indices(pick)
        rest = model(
            input_ids=targets[:, :-1],
            attention_mask=torch.cat([mask[pick], real[:, :-1].long()], dim=1),
            position_ids=mask.sum(1)[pick, None] + torch.arange(width - 1, device=device),
            past_key_values=cache,
            use_cache=True,
        )
        logits = torch.cat([logits, rest.logits], dim=1)
    log_probabilities = logits.float().log_softmax(-1)
    token = log_probabilities.gather(2, targets[:, :, None])[:, :, 0].masked_fill(~real, 0.0)
    greedy = ((log_probabilities.argmax(-1) == targets) | ~real).all(1)
    return list(zip(token.sum(1).tolist(), greedy.tolist(), strict=True))
