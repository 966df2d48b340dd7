"""Accepted rows -> curated splits, with the checks that say what was done to them.

Three passes, none of which holds the rows: blocks are prepared one by one (``prepare``), keys and hashed words of all rows
decide who stays and on which side (``decide``), and the lines are written to the files of their splits. The checks then
read those files again (``verify``): they look at the result, not at what the steps say they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.rows import SPLITS, Message, Row
from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.compare.columns import DATA, TEST_FILE, VALIDATION_FILE, Columns, ColumnWriter, block_keys
from ftplatform.data.curation.checks import decided_checks, verified_checks
from ftplatform.data.curation.decide import Decision, decide
from ftplatform.data.curation.erasure import Subjects, write_index
from ftplatform.data.curation.prepare import Preparation, Totals, prepare
from ftplatform.data.curation.verify import Verified, verify
from ftplatform.data.workers import Workers, map_ordered


@dataclass(frozen=True, slots=True)
class Accepted:
    """JSONL files of canonical rows: the data, and the customer's own held-out rows."""

    data: Path
    validation: Path | None = None
    test: Path | None = None

    def parts(self) -> Iterator[tuple[Path, int]]:
        for path, origin in ((self.data, DATA), (self.validation, VALIDATION_FILE), (self.test, TEST_FILE)):
            if path is not None:
                yield path, origin


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rows are compared with besides each other."""

    suites: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Prompts of every evaluation suite, in the form of ``ftplatform.data.text.normalise``."""
    earlier_heldout: tuple[Path, ...] = ()
    """JSONL files of rows that were held out in earlier versions."""
    secret: bytes = bytes(32)
    """The tenant's key, behind pseudonyms and subject keys."""


@dataclass(frozen=True, slots=True)
class Curated:
    splits: dict[str, Path]
    rows: dict[str, int]
    totals: Totals
    decision: Decision
    verified: Verified
    index: Path
    """The erasure index; see ``write_index``."""
    checks: list[CheckResult]

    @property
    def removed(self) -> dict[str, int]:
        """Rows left out, by reason; only reasons that happened."""
        both = self.totals.removed + self.decision.removed
        return {reason: count for reason, count in sorted(both.items()) if count}


def curate(
    accepted: Accepted, config: DatasetConfig, around: Surroundings, folder: Path, *, workers: Workers = 1
) -> Curated:
    """Curate one upload; files are written below ``folder``, which is the caller's to delete.

    The result depends on the rows, the settings and the surroundings alone, not on ``workers``.
    """
    mapper = partial(_mapped, workers)
    prompts = tuple(dict.fromkeys(prompt for suite in around.suites.values() for prompt in suite))
    settings = Preparation(config.model_dump_json(), around.secret, prompts)
    prepared, totals, columns, synthetic, subjects = _prepare(accepted, settings, folder, workers)
    references = _references(prompts, around.earlier_heldout, folder / "references")
    decision = decide(columns, synthetic, references, config, folder=folder, mapper=mapper)
    splits = _write(prepared, decision.sides, folder)
    verified = verify(splits, settings, workers)
    names = _ReferenceNames(around, prompts)
    checks = [
        *verified_checks(verified, config, totals),
        *decided_checks(columns, decision, prepared, config, totals, names),
    ]
    rows = {name: int((decision.sides == side).sum()) for side, name in enumerate(SPLITS)}
    index = folder / "index.npz"
    write_index(prepared, decision.sides, columns.exact, subjects, index)
    return Curated(splits, rows, totals, decision, verified, index, checks)


def _mapped(workers: Workers, function, items):  # type: ignore[no-untyped-def]
    return map_ordered(function, items, workers)


def _prepare(
    accepted: Accepted, settings: Preparation, folder: Path, workers: Workers
) -> tuple[Path, Totals, Columns, NDArray[np.bool_], Subjects]:
    totals, synthetic, subjects = Totals(), [], Subjects()
    writer = ColumnWriter(folder / "columns")
    prepared, rows = folder / "prepared.jsonl", 0
    with prepared.open("wb") as stream:
        for path, origin in accepted.parts():
            work = partial(prepare, settings, origin != DATA)
            for block in map_ordered(work, read_blocks(path), workers):
                stream.write(block.lines)
                writer.add(block.keys, origin)
                totals.add(block.totals)
                synthetic.append(block.synthetic)
                subjects.add(block.subjects, rows)
                rows += len(block.synthetic)
    flags = np.concatenate(synthetic) if synthetic else np.zeros(0, np.bool_)
    return prepared, totals, writer.close(), flags, subjects


def _references(prompts: Sequence[str], earlier: Iterable[Path], folder: Path) -> Columns:
    """The columns of what must not be trained on, in the order that ``asked`` counts in: first the prompts."""
    writer = ColumnWriter(folder)
    for start in range(0, len(prompts), 2000):
        asked = [Row((Message("user", text, False),), "suite", kind="prompt") for text in prompts[start : start + 2000]]
        writer.add(block_keys(asked))
    for path in earlier:
        for block in read_blocks(path):
            writer.add(block_keys(rows_of(block)))
    return writer.close()


def _write(prepared: Path, sides: NDArray[np.int8], folder: Path) -> dict[str, Path]:
    """The files of the splits, their rows in the order they came in."""
    paths = {name: folder / f"{name}.jsonl" for name in SPLITS}
    streams = [paths[name].open("wb") for name in SPLITS]
    try:
        at = 0
        for block in read_blocks(prepared):
            lines = block.splitlines(keepends=True)
            for line, side in zip(lines, sides[at : at + len(lines)].tolist(), strict=True):
                if side >= 0:
                    streams[side].write(line)
            at += len(lines)
    finally:
        for stream in streams:
            stream.close()
    return paths


class _ReferenceNames:
    """What row i of the references is called in a report."""

    def __init__(self, around: Surroundings, prompts: Sequence[str]) -> None:
        self._around, self._prompts = around, prompts

    def __call__(self, number: int) -> tuple[str, str]:
        """(origin, text) of a reference."""
        if number < len(self._prompts):
            text = self._prompts[number]
            suite = next(name for name, texts in self._around.suites.items() if text in texts)
            return f"suite {suite}", text
        return "held out in an earlier version", ""
