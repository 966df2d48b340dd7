"""Train, validation and test by the hash of the question: stable as data grows, and no question on two sides."""

from __future__ import annotations

from dataclasses import dataclass

from ftplatform.core.dataset_config import SplitConfig
from ftplatform.core.digests import digest_bytes
from ftplatform.core.rows import SPLITS, Row
from ftplatform.data.keys import learned_questions, question

_SCALE = 16**13  # 52 bits: every value is exact in a float


@dataclass(frozen=True, slots=True)
class Split:
    rows: dict[str, list[Row]]
    """``train``, ``validation`` and ``test``, each in the order the rows came in."""
    leaking: int
    """Rows left out because they teach the answer to a question of a held-out split."""


def place(key: str) -> float:
    """A number in [0, 1) that depends on the question alone."""
    return int(digest_bytes(f"ftplatform/split/{key}".encode())[:13], 16) / _SCALE


def split_rows(rows: list[Row], test_rows: list[Row], config: SplitConfig) -> Split:
    """Divide ``rows``; ``test_rows`` (the customer's own) are the test split when there are any.

    A row's side is decided by its own question, so it never moves when others come or go. Its one exception is
    removal: a conversation whose earlier turn asks a question that is held out would teach the answer, so it is left
    out and counted.
    """
    test_share = 0.0 if test_rows or config.test_files else config.test
    sides: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        at = place(question(row))
        side = "test" if at < test_share else "validation" if at < test_share + config.validation else "train"
        sides[side].append(row)
    sides["test"] += test_rows
    before = sum(len(part) for part in sides.values())
    tested = {question(row) for row in sides["test"]}
    sides["validation"] = [r for r in sides["validation"] if not _teaches(r, tested)]
    held_out = tested | {question(row) for row in sides["validation"]}
    sides["train"] = [r for r in sides["train"] if not _teaches(r, held_out)]
    return Split(sides, before - sum(len(part) for part in sides.values()))


def leaks(splits: dict[str, list[Row]]) -> list[dict[str, str]]:
    """Rows that teach the answer to a question held out on a later side: {teaches, held_out}, sources with their
    splits."""
    found = []
    for i, side in enumerate(SPLITS):
        for later in SPLITS[i + 1 :]:
            asked = {question(row): row.source for row in splits.get(later, [])}
            for row in splits.get(side, []):
                for key in (learned_questions(row) | {question(row)}) & asked.keys():
                    found.append({"teaches": f"{side}: {row.source}", "held_out": f"{later}: {asked[key]}"})
    return found


def _teaches(row: Row, held_out: set[str]) -> bool:
    return question(row) in held_out or not learned_questions(row).isdisjoint(held_out)
