"""Train, validation and test by the hash of the question or of its group: stable as data grows, no question on two sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.dataset_config import SplitConfig
from ftplatform.data.compare.columns import TEST_FILE, VALIDATION_FILE, Columns
from ftplatform.data.compare.dedup import matches

OUT, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
"""A row's side: its place in ``SPLITS``, or ``OUT`` when it is left out."""


def split_sides(
    place: NDArray[np.float64], group_place: NDArray[np.float64], origin: NDArray[np.int8], config: SplitConfig
) -> NDArray[np.int8]:
    """The side of every row.

    A row of the customer's own validation or test files stands where they put it, and no other row is held out for that
    split then. Any other row is placed by its group, or by its question when it has none: by itself alone, so it never
    moves when others come or go.
    """
    own_test = bool(config.test_files) or bool((origin == TEST_FILE).any())
    own_validation = bool(config.validation_files) or bool((origin == VALIDATION_FILE).any())
    test = 0.0 if own_test else config.test
    validation = 0.0 if own_validation else config.validation
    at = np.where(np.isnan(group_place), place, group_place)
    sides = np.where(at < test, TEST, np.where(at < test + validation, VALIDATION, TRAIN)).astype(np.int8)
    sides[origin == VALIDATION_FILE] = VALIDATION
    sides[origin == TEST_FILE] = TEST
    return sides


def remove_leaks(columns: Columns, sides: NDArray[np.int8]) -> tuple[NDArray[np.int8], int]:
    """Sides with the rows left out that teach the answer to a held-out question, or share a group with a held-out row.

    Test stays whole; validation gives way to test, and training to both. Returns the sides and how many rows were left out.
    """
    sides = sides.copy()
    out = 0
    for side, later in ((VALIDATION, (TEST,)), (TRAIN, (VALIDATION, TEST))):
        rows, _ = _teaching(columns, sides, side, np.isin(sides, later))
        sides[rows] = OUT
        out += len(rows)
    return sides, out


@dataclass(frozen=True, slots=True)
class Leak:
    teaches: int
    """A row of ``side`` ..."""
    side: int
    held_out: int
    """... that gives away this row of ``later``."""
    later: int


def leaks(columns: Columns, sides: NDArray[np.int8], *, limit: int = 10) -> tuple[int, list[Leak]]:
    """Rows that teach the answer to a question held out on a later side: how many, and the first ``limit``."""
    count, shown = 0, []
    for side in (TRAIN, VALIDATION):
        for later in range(side + 1, TEST + 1):
            rows, held = _teaching(columns, sides, side, sides == later)
            count += len(rows)
            shown += [Leak(int(a), side, int(b), later) for a, b in zip(rows[:limit], held[:limit], strict=True)]
    return count, shown[:limit]


def _teaching(
    columns: Columns, sides: NDArray[np.int8], side: int, held: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ``side`` that give away a row of ``held``, each with the first such."""
    held_rows, mine = np.flatnonzero(held), sides == side
    if not len(held_rows) or not mine.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    gives = np.full(len(columns), -1)
    questions = columns.question[held_rows]
    for rows, found in matches(columns.question, mine, questions):
        gives[rows] = held_rows[found]
    if len(columns.learned):
        teacher = columns.teacher
        for keys, found in matches(columns.learned, mine[teacher], questions):
            gives[teacher[keys]] = held_rows[found]
    held_groups = columns.group_place[held_rows]
    held_grouped = ~np.isnan(held_groups)
    if held_grouped.any():
        rows = np.flatnonzero(mine)
        groups = columns.group_place[rows]
        grouped = ~np.isnan(groups)
        known, at = np.unique(held_groups[held_grouped], return_index=True)
        found = np.minimum(np.searchsorted(known, groups[grouped]), len(known) - 1)
        same = known[found] == groups[grouped]
        hit = rows[grouped][same]
        gives[hit] = held_rows[held_grouped][at[found[same]]]
    teaching = np.flatnonzero(gives >= 0)
    return teaching, gives[teaching]
