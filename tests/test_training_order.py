"""The data order: the same numbers for a step however it is asked, made once for all of its places."""

from __future__ import annotations

import pytest
import torch

from ftplatform.training.shards import RowOrder
from ftplatform.training.trainer import PlacedRows


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (3, 8), (8, 4), (5, 5)])
def test_a_step_is_cut_from_epochs_end_to_end(rows: int, batch: int) -> None:
    steps = 7
    order = RowOrder(rows, batch, seed=3)
    epochs = [
        torch.randperm(rows, generator=torch.Generator().manual_seed(3 * 1_000_003 + number))
        for number in range(steps * batch // rows + 1)
    ]
    expected = torch.cat(epochs)[: steps * batch].reshape(steps, batch)
    assert [order.of_step(step).tolist() for step in range(steps)] == expected.tolist()
    assert order.of_step(2).tolist() == expected[2].tolist(), "an earlier one again"


def test_the_places_of_a_step_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order, asked = RowOrder(100, 8, seed=1), []
    expected = [int(unit) for step in range(3) for unit in order.of_step(step)]
    whole = order.of_step
    monkeypatch.setattr(order, "of_step", lambda step: asked.append(step) or whole(step))
    places = PlacedRows(order, 8, 3)
    assert [places[place] for place in range(len(places))] == expected
    assert asked == [0, 1, 2]
