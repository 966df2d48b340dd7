"""Replay: general rows mixed into the training rows, so that what the base model can do is not forgotten."""

from __future__ import annotations

from random import Random

from ftplatform.core.errors import DataRefused
from ftplatform.core.rows import Row


def with_replay(rows: list[Row], general: list[Row], share: float, seed: int) -> list[Row]:
    """``rows`` and as many general rows that they are ``share`` of the whole, in an order drawn by ``seed``.

    General rows are drawn without repetition; when there are fewer than asked for, all are taken.

    Raises:
        DataRefused: there are no general rows.
    """
    if not general:
        raise DataRefused("replay needs general rows, the base model's replay file has none")
    wanted = min(len(general), round(len(rows) * share / (1 - share)))
    random = Random(seed)
    mixed = [*rows, *random.sample(general, wanted)]
    random.shuffle(mixed)
    return mixed
