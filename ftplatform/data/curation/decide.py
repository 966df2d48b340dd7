"""The second pass of curation: who stays, and on which side, decided from the keys and hashed words of all rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.data.compare.columns import DATA, TEST_FILE, Columns, Mapper
from ftplatform.data.compare.contamination import Contamination, find_contamination
from ftplatform.data.compare.dedup import Exact, find_exact
from ftplatform.data.compare.near import NearPairs, find_near
from ftplatform.data.compare.split import OUT, TRAIN, VALIDATION, remove_leaks, split_sides


@dataclass(frozen=True, slots=True)
class Decision:
    sides: NDArray[np.int8]
    """(n,): index into ``SPLITS``, or ``OUT``."""
    removed: Counter[str]
    """Rows left out, by reason: ``duplicate``, ``near_duplicate``, ``suite_overlap``, ``leak``, ``contaminated``,
    ``synthetic_cap``.
    """
    exact: Exact
    near: NearPairs | None
    contamination: Contamination
    synthetic: int
    """Rows of the training split that a teacher model wrote."""
    own_test: bool


def decide(
    columns: Columns,
    synthetic: NDArray[np.bool_],
    references: Columns,
    config: DatasetConfig,
    *,
    folder: Path,
    mapper: Mapper = map,
) -> Decision:
    """Decide about every row; ``folder`` takes files of bands and n-grams.

    Rows of the customer's own held-out files stay where they are, also when they repeat each other. Synthetic rows are
    trained on and never tested on, wherever their question would stand.
    """
    data = np.asarray(columns.origin) == DATA
    removed: Counter[str] = Counter()
    exact = find_exact(columns.exact, columns.subject, among=data)
    keep = exact.keep.copy()
    removed["duplicate"] = int((~keep).sum())

    near = None
    if config.duplicates.near != "off":
        near = find_near(columns, keep & data, config.duplicates.threshold, folder=folder, mapper=mapper)
        if config.duplicates.near == "drop":
            keep[near.later] = False
            removed["near_duplicate"] = len(near.later)

    sides = split_sides(columns.place, columns.group_place, columns.origin, config.split)
    sides[data & synthetic] = TRAIN
    sides[~keep] = OUT
    remove = config.contamination.policy == "remove"
    asking = data & (np.asarray(columns.asked) >= 0) & (sides != OUT)
    if remove:
        sides[asking] = OUT
        removed["suite_overlap"] = int(asking.sum())
    sides, removed["leak"] = remove_leaks(columns, sides)

    found = find_contamination(
        columns, sides == TRAIN, sides >= VALIDATION, references, config.contamination, folder=folder, mapper=mapper
    )
    if remove:
        sides[found.rows] = OUT
        removed["contaminated"] = len(found.rows)
    if config.synthetic is not None:
        removed["synthetic_cap"] = _cap(sides, synthetic, columns.place, config.synthetic.max_share)
    written = int((synthetic & (sides == TRAIN)).sum())
    own_test = bool(config.split.test_files) or bool((columns.origin == TEST_FILE).any())
    return Decision(sides, removed, exact, near, found, written, own_test)


def _cap(sides: NDArray[np.int8], synthetic: NDArray[np.bool_], place: NDArray[np.float64], max_share: float) -> int:
    """Take synthetic rows out of training until they are at most ``max_share`` of it; returns how many.

    Those with the highest place go, so that the same ones stay as data grows.
    """
    rows = np.flatnonzero(synthetic & (sides == TRAIN))
    real = int((sides == TRAIN).sum()) - len(rows)
    allowed = int(real * max_share / (1 - max_share))
    too_many = rows[np.argsort(place[rows], kind="stable")[allowed:]]
    sides[too_many] = OUT
    return len(too_many)
