"""Training rows that repeat what a model is tested on: the same question, nearly the same, or a passage of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.dataset_config import ContaminationConfig
from ftplatform.data.compare.columns import Columns, Mapper
from ftplatform.data.compare.dedup import matches
from ftplatform.data.compare.minhash import QUESTION, Banding, template_shingles, write_bands
from ftplatform.data.compare.near import NEIGHBOURS, jaccard
from ftplatform.data.compare.passages import passages

EXACT, NEAR, NGRAM = 0, 1, 2
KINDS = ("exact", "near", "ngram")

Rows = NDArray[np.int64]
_ROWS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Contamination:
    """Training rows to be left out, each once, ascending, with the surest kind of overlap."""

    rows: Rows
    kind: NDArray[np.int8]
    """``EXACT``, ``NEAR`` or ``NGRAM``."""
    held_out: Rows
    """What the row repeats: a row of the data, or ``len(columns) + i`` for row i of the references."""
    similarity: NDArray[np.float32]
    """Jaccard similarity of the questions for ``NEAR``, otherwise 1."""

    def count(self, kind: int) -> int:
        return int((self.kind == kind).sum())


def find_contamination(
    columns: Columns,
    train: NDArray[np.bool_],
    held_out: NDArray[np.bool_],
    references: Columns | None,
    config: ContaminationConfig,
    *,
    folder: Path,
    mapper: Mapper = map,
) -> Contamination:
    """Rows of the mask ``train`` that overlap with rows of the mask ``held_out`` or with ``references``.

    ``references`` are the prompts of evaluation suites and the held-out rows of earlier versions, as columns of their own
    (a prompt is a row of kind ``prompt``); ``columns.asked`` counts them in this order. Only questions are protected: answers
    and canned replies may recur. ``folder`` takes the bands and n-grams, and is the caller's to delete.
    """
    rows = np.flatnonzero(train)
    kind, held = np.full(len(columns), -1, np.int8), np.full(len(columns), -1)
    similarity = np.ones(len(columns), np.float32)
    sides = [(columns, np.flatnonzero(held_out), 0)]
    if references is not None:
        sides.append((references, np.arange(len(references)), len(columns)))

    def note(found: NDArray[Any], what: Rows, which: int) -> None:
        new = kind[found] < 0
        kind[found[new]], held[found[new]] = which, what[new]

    asking = rows[columns.asked[rows] >= 0]
    note(asking, len(columns) + columns.asked[asking].astype(np.int64), EXACT)
    teacher = columns.teacher
    for other, others, base in sides:
        questions = other.question[others]
        for mine, at in matches(columns.question, train, questions):
            note(mine, others[at] + base, EXACT)
        for keys, at in matches(columns.learned, train[teacher], questions):
            note(teacher[keys], others[at] + base, EXACT)
    del teacher

    templates = template_shingles(columns, rows)
    banding = Banding.of(config.threshold)
    bands = write_bands(columns, rows, QUESTION, templates, banding, folder / "train-bands", mapper)
    for other, others, base in sides:
        theirs = write_bands(other, others, QUESTION, templates, banding, folder / f"held-bands-{base}", mapper)
        for band, their in zip(bands, theirs, strict=True):
            for mine, at in _same_bucket(band, their):
                is_open = kind[rows[mine]] < 0
                row, what = rows[mine[is_open]], others[at[is_open]]
                like = jaccard(columns, row, other, what, QUESTION, templates)
                close = like >= config.threshold
                similarity[row[close]] = like[close]
                note(row[close], what[close] + base, NEAR)

    left = rows[kind[rows] < 0]
    for row, side, what in passages(columns, left, [(c, r) for c, r, _ in sides], config.ngram, folder, mapper):
        note(row, what + sides[side][2], NGRAM)
    found = np.flatnonzero(kind >= 0)
    return Contamination(found, kind[found], held[found], similarity[found])


def _same_bucket(band: NDArray[np.uint32], held_out: NDArray[np.uint32]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs (place in ``band``, place in ``held_out``) of equal values; of a held-out bucket at most ``NEIGHBOURS``."""
    order = np.argsort(held_out, kind="stable")
    values = held_out[order]
    for first in range(0, len(band), _ROWS_AT_ONCE):
        part = np.asarray(band[first : first + _ROWS_AT_ONCE])
        mine = np.flatnonzero(part)
        begin = np.searchsorted(values, part[mine])
        for distance in range(NEIGHBOURS):
            at = begin + distance
            same = at < len(values)
            same[same] = values[at[same]] == part[mine[same]]
            mine, begin = mine[same], begin[same]
            if not len(mine):
                break
            yield mine + first, order[begin + distance]
