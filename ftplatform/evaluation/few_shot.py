"""Examples put in front of every question: what the base model does when it is shown the task and not trained on it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from ftplatform.core.digests import digest_json
from ftplatform.core.rows import Row
from ftplatform.evaluation.items import Item, Turn
from ftplatform.evaluation.suite_files import askable, heldout_item

Example = tuple[Turn, ...]
"""A whole conversation without its system turn, the assistant's answer last."""
FEW_SHOT_SUITE = "heldout-few-shot"


def draw_examples(rows: Iterable[Row], count: int, seed: int) -> list[Example]:
    """``count`` conversations of the training split (or all there are), the same ones for the same rows and seed in any order."""
    known = ((digest_json([seed, row.hash]), number, row) for number, row in enumerate(rows) if askable(row))
    return [_example(row) for _, _, row in heapq.nsmallest(count, known, key=lambda one: one[:2])]


def with_examples(item: Item, examples: Sequence[Example]) -> Item:
    """The item with the examples between its system turn and its conversation."""
    system = item.messages[:1] if item.messages[0].role == "system" else ()
    shown = tuple(turn for example in examples for turn in example)
    return item.model_copy(update={"messages": (*system, *shown, *item.messages[len(system) :])})


def that_fit(
    examples: Sequence[Example], items: Sequence[Item], tokens: Callable[[Sequence[Turn]], int], room: int
) -> list[Example]:
    """As many examples, from the first, as leave the longest item at most ``room`` tokens; ``tokens`` counts a rendered prompt."""
    kept = list(examples)
    while kept and max(tokens(with_examples(item, kept).messages) for item in items) > room:
        kept.pop()
    return kept


def _example(row: Row) -> Example:
    item = heldout_item(row)
    assert item.reference is not None
    turns = item.messages[1:] if item.messages[0].role == "system" else item.messages
    return (*turns, Turn(role="assistant", content=item.reference))
