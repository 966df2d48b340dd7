"""Held-out preferences as a suite: which of two answers is the better one. Control plane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ftplatform.core.dataset_config import HELDOUT_SUITE
from ftplatform.core.errors import DataRefused
from ftplatform.core.rows import Row
from ftplatform.evaluation.items import Item, Turn
from ftplatform.evaluation.suite_files import StoredSuite, publish_items, smallest
from ftplatform.store.base import ObjectStore


def heldout_pairs(rows: Iterable[Row]) -> list[Row]:
    """The pairs of a test split whose two continuations are one plain answer each, in their order; sampled as conversations are."""
    return smallest(rows, _plain)


def publish_pairs(store: ObjectStore, rows: Sequence[Row]) -> StoredSuite:
    """Put the pairs into the store as a multiple-choice suite.

    Raises:
        DataRefused: no pairs.
    """
    items = list({item.id: item for item in map(pair_item, rows)}.values())
    if not items:
        raise DataRefused(
            "the dataset has no held-out pairs of plain answers, so nothing can show that a reward model learned them: raise "
            "split.test in dataset.yaml, name test_files, or upload more pairs"
        )
    return publish_items(store, HELDOUT_SUITE, items, 1)


def pair_item(row: Row) -> Item:
    """The better answer stands first or second by the row's hash: a model that cannot tell must not win by place."""
    answers = [row.chosen[0].content, row.rejected[0].content]
    right = int(row.hash, 16) % 2
    return Item(
        id=row.hash,
        messages=tuple(Turn.model_validate({"role": m.role, "content": m.content}) for m in row.messages),
        choices=(answers[right], answers[1 - right]),
        answer=right,
        tags=row.tags,
    )


def _plain(row: Row) -> bool:
    turns = (*row.messages, *row.chosen, *row.rejected)
    tools = row.tools or any(m.role == "tool" or m.tool_calls for m in turns)
    answers = len(row.chosen) == len(row.rejected) == 1
    return row.kind == "preference" and answers and not tools and all(m.content for m in (*row.chosen, *row.rejected))
