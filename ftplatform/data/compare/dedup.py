"""Equal rows found by sorting keys: exact duplicates, contradicting answers, and what changed between two versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
"""(n, 2): n keys of 128 bits."""
_SORTED_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Exact:
    keep: NDArray[np.bool_]
    """(n,): False for rows that repeat an earlier one."""
    first: NDArray[np.int64]
    """(n,): the earliest row equal to this one; itself when it is kept."""
    conflicts: list[list[int]]
    """Kept rows that contradict each other, a group per question; at most ``limit`` groups of four."""
    conflicting: int
    """How many such groups there are."""


def find_exact(exact: Keys, subject: Keys, among: NDArray[np.bool_] | None = None, *, limit: int = 10) -> Exact:
    """Rows whose kind, question and answer are those of an earlier row, and questions with several answers.

    Only rows of the mask ``among`` are looked at; the others are kept. Contradictions are for a person to solve, so their
    rows are kept.
    """
    rows = np.arange(len(exact)) if among is None else np.flatnonzero(among)
    first = np.arange(len(exact))
    first[rows] = rows[first_equal(exact[rows])]
    keep = first == np.arange(len(exact))
    kept = rows[keep[rows]]
    of = first_equal(subject[kept])
    sizes = np.bincount(of, minlength=len(kept))
    several = np.flatnonzero(sizes > 1)
    conflicts = [[int(row) for row in kept[np.flatnonzero(of == one)[:4]]] for one in several[:limit]]
    return Exact(keep, first, conflicts, len(several))


@dataclass(frozen=True, slots=True)
class Versions:
    """Distinct rows of this version against an earlier one."""

    new: int
    kept: int
    gone: int


def compare_versions(exact: Keys, earlier: Keys) -> Versions:
    """Count distinct rows that are only here, in both, and only in the earlier version."""
    here, before = (keys[first_equal(keys) == np.arange(len(keys))] for keys in (exact, earlier))
    kept = sum(len(found) for found, _ in matches(here, np.ones(len(here), np.bool_), before))
    return Versions(len(here) - kept, kept, len(before) - kept)


def first_equal(keys: Keys) -> NDArray[np.int64]:
    """(n,): for every key, the index of its first occurrence. Sorts a million keys at a time."""
    out = np.arange(len(keys))
    parts = max(1, -(-len(keys) // _SORTED_AT_ONCE))
    for part in range(parts):
        rows = np.flatnonzero(keys[:, 0] % np.uint64(parts) == part)
        high, low = keys[rows, 0], keys[rows, 1]
        # lexsort is stable: the first of a run is the earliest row.
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        begins = np.append(True, (high[1:] != high[:-1]) | (low[1:] != low[:-1]))[: len(rows)]
        out[rows[order]] = rows[order[begins]][np.cumsum(begins) - 1]
    return out


class SortedKeys:
    """Keys to be looked up in: 24 bytes each."""

    def __init__(self, keys: Keys) -> None:
        self._order = np.lexsort((keys[:, 1], keys[:, 0]))
        self._high, self._low = keys[self._order, 0], keys[self._order, 1]

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """(n,): for every key, the index of the first equal one here, or -1."""
        out = np.full(len(keys), -1)
        at = np.searchsorted(self._high, keys[:, 0])
        left = np.arange(len(keys))
        while len(left):
            left = left[at[left] < len(self._high)]
            left = left[self._high[at[left]] == keys[left, 0]]
            equal = self._low[at[left]] == keys[left, 1]
            out[left[equal]] = self._order[at[left[equal]]]
            # Another key with the same upper half: about once in 10^5 sets of ten million.
            left = left[~equal]
            at[left] += 1
        return out


def matches(
    keys: Keys, chosen: NDArray[np.bool_], others: Keys
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs (index of a key that is ``chosen`` (n,), index of the first equal one of ``others``), a million keys at a
    time.
    """
    known = SortedKeys(others)
    for begin in range(0, len(keys), _SORTED_AT_ONCE):
        part = np.flatnonzero(chosen[begin : begin + _SORTED_AT_ONCE]) + begin
        found = known.find(keys[part])
        yield part[found >= 0], found[found >= 0]
