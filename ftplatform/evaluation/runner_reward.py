"""Scores a reward model on pairs: right where it scores the better answer higher. Payload side.

A module of its own beside ``training/methods/reward.py``, because a score's cache key holds the source of what made it: a change
of the training must not score every model again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from ftplatform.core.errors import DataRefused, PayloadFailed
from ftplatform.core.payload import ModelSpec, SuiteSpec
from ftplatform.core.rows import Message, Row
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.data.tokens.tokenize import RowTokenizer
from ftplatform.evaluation.items import Item

HEAD = "score"
BATCH_TOKENS = 1 << 14
"""Padded tokens of one forward pass."""


class LoadedRewards:
    """A classifier with one label in memory: ``weights`` alone, or an adapter on the base."""

    def __init__(self, model: ModelSpec, base: Path, weights: Path) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            weights if model.kind == "full" else base,
            num_labels=1,
            dtype="auto" if device == "cuda" else torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        if model.kind == "lora":
            loaded = PeftModel.from_pretrained(loaded, str(weights))
        self._model, self._device = loaded.to(device).eval(), device
        inner = loaded.get_base_model() if model.kind == "lora" else loaded
        self.max_length = int(inner.config.max_position_embeddings)
        # Any token pads: a score is read at a sequence's own last token. Without one the library refuses a batch.
        inner.config.pad_token_id = inner.config.pad_token_id or 0
        head = getattr(inner, HEAD, None)
        if head is None:
            raise DataRefused(f"{type(inner).__name__} of {model.name} has no head {HEAD!r}: it is no reward model")
        # PEFT keeps the untrained head under ``original_module`` beside the trained one.
        self._head = head.modules_to_save["default"] if hasattr(head, "modules_to_save") else head
        form = load_chat_format(base)
        self._tokens = RowTokenizer(form.tokenizer, form.template)

    def scores(self, sequences: list[list[int]]) -> list[float]:
        """Of whole conversations, each at its last token."""
        kept: list[torch.Tensor] = []
        handle = self._head.register_forward_hook(lambda module, args, output: kept.append(output[..., 0]))
        lengths = torch.tensor([len(ids) for ids in sequences])
        ids = torch.zeros((len(sequences), int(lengths.max())), dtype=torch.int64)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence)
        try:
            with torch.no_grad():
                self._model(input_ids=ids.to(self._device), attention_mask=None, use_cache=False)
        finally:
            handle.remove()
        found: list[float] = kept[-1][torch.arange(len(sequences)), lengths - 1].float().tolist()
        return found

    def conversations(self, item: Item) -> list[list[int]]:
        """Token ids of the prompt with each choice, as training rendered them."""
        assert item.choices is not None
        prompt = tuple(Message(turn.role, turn.content) for turn in item.messages)
        first, second = ((Message("assistant", choice),) for choice in item.choices)
        row = Row(messages=prompt, source=item.id, kind="preference", chosen=first, rejected=second)
        block = self._tokens([row])
        return [block.ids[: block.lengths[0]].tolist(), block.ids[block.lengths[0] :].tolist()]


def score_pairs(loaded: LoadedRewards, suite: SuiteSpec, items: list[Item], beat: Callable[[], None]) -> dict[str, Any]:
    """As ``runner.score_suite``; a pair with a sequence beyond the model's context scores 0 and counts in ``too_long``.

    Raises:
        PayloadFailed: items that are not pairs, or a score that is not finite.
    """
    if any(item.choices is None or len(item.choices) != 2 for item in items):
        raise PayloadFailed(f"suite {suite.name!r} holds other items than pairs, which a reward model cannot be asked")
    pairs = {item.id: loaded.conversations(item) for item in items}
    fitting = [item for item in items if max(map(len, pairs[item.id])) <= loaded.max_length]
    right: dict[str, int] = {}
    for batch in _batches(fitting, {name: max(map(len, found)) for name, found in pairs.items()}):
        beat()
        values = loaded.scores([ids for item in batch for ids in pairs[item.id]])
        for place, item in enumerate(batch):
            both = torch.tensor(values[2 * place : 2 * place + 2])
            if not both.isfinite().all():
                raise PayloadFailed(f"item {item.id!r}: scores {both.tolist()} are not finite; train again")
            # Equal scores tell nothing apart: they count as wrong whichever is the better answer.
            right[item.id] = int(bool(both[item.answer or 0] > both[1 - (item.answer or 0)]))
    return {
        "suite": suite.name,
        "n": len(items),
        "score": sum(right.values()) / len(items),
        "too_long": len(items) - len(fitting),
        "items": [{"id": item.id, "score": right.get(item.id, 0)} for item in items],
    }


def _batches(items: list[Item], lengths: dict[str, int]) -> list[list[Item]]:
    """Items of similar length together, each batch within ``BATCH_TOKENS`` where more than one item is in it."""
    batches: list[list[Item]] = []
    for item in sorted(items, key=lambda one: lengths[one.id]):
        if not batches or 2 * lengths[item.id] * (len(batches[-1]) + 1) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(item)
    return batches
