"""The length of packed sequences, from the rows that go into them."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHORTEST = 256
"""Shorter sequences hold too few rows each to be packed well, and save nothing: documents attend to themselves alone."""
SHARE = 0.99
"""Of the rows that fit whole; the planner leaves the rest to the recipe's ``too_long``."""


def sequence_length(lengths: Sequence[int], most: int) -> tuple[int, str]:
    """The next power of two that holds 99 of 100 rows, at most ``most`` tokens (the base model's context), and why.

    Raises:
        ValueError: no lengths.
    """
    if not lengths:
        raise ValueError("the length of sequences was to be chosen from no rows")
    needed = sorted(lengths)[math.ceil(SHARE * len(lengths)) - 1]
    length = min(most, max(SHORTEST, 2 ** math.ceil(math.log2(max(needed, 1)))))
    said = f"Sequences of {length} tokens: 99 % of {len(lengths)} sampled rows have at most {needed}"
    return length, said + (f", and the base model takes at most {most}." if length < needed else ".")
