"""Stretches of unequal length that stand end to end in one array: where they begin, what they add up to, how to pick some."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def starts_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N]: where each of the stretches of ``lengths`` [N] begins when they stand end to end."""
    return np.cumsum(lengths) - lengths


def ragged(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indexes [sum(lengths)] of the stretches ``starts[i] : starts[i] + lengths[i]``, end to end."""
    return np.repeat(starts - starts_of(lengths), lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def sums(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of each stretch of ``lengths`` of ``values``."""
    upto = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(lengths)
    total: NDArray[np.int64] = upto[ends] - upto[ends - lengths]
    return total
