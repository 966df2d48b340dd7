"""Replay: general rows mixed into the training rows, so that what the base model can do is not forgotten."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.errors import DataRefused


def replay_indices(rows: int, general: int, share: float, seed: int) -> NDArray[np.int64]:
    """An order of all ``rows`` training rows and as many general ones that they are ``share`` of the whole.

    Positions below ``rows`` are training rows, ``rows + i`` is general row ``i``. General rows are drawn without repetition; when
    there are fewer than asked for, all are taken. The order is drawn by ``seed``.

    Raises:
        DataRefused: there are no general rows.
    """
    if not general:
        raise DataRefused("replay needs general rows, the base model's replay file has none")
    wanted = min(general, round(rows * share / (1 - share)))
    random = np.random.default_rng(seed)
    order = np.concatenate([np.arange(rows), rows + random.permutation(general)[:wanted]])
    random.shuffle(order)
    return order
