"""Accepted rows -> curated splits, with the checks that say what was done to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.dedup import Deduplicated, deduplicate
from ftplatform.data.pii import find_secrets, scrub
from ftplatform.data.schema import check_schema, frame
from ftplatform.data.split import leaks, split_rows
from ftplatform.data.text import SHOWN_ROWS, normalise, shorten


@dataclass(frozen=True, slots=True)
class Curated:
    splits: dict[str, list[Row]]
    removed: dict[str, int]
    """Rows left out, by reason: ``duplicate``, ``suite_overlap``, ``leak``."""
    pii: dict[str, int]
    """Findings replaced, by entity."""
    pii_examples: list[dict[str, str]]
    checks: list[CheckResult]


def curate(rows: list[Row], test_rows: list[Row], config: DatasetConfig, suites_prompts: frozenset[str]) -> Curated:
    """Add the system turn, scrub, de-duplicate, take out evaluation questions, split, and check the result.

    ``suites_prompts`` holds the prompts of every evaluation suite in the form of ``ftplatform.data.text.normalise``.
    The checks look at the result itself, not at what the steps say they did. The customer's own test rows are
    scrubbed and otherwise left whole: a score must be about the questions they sent.
    """
    data, data_pii, examples = scrub(with_system(rows, config.system), config.pii)
    test, test_pii, test_examples = scrub(with_system(test_rows, config.system), config.pii)
    once = deduplicate(data)
    clean = [row for row in once.rows if not asks(row, suites_prompts)]
    split = split_rows(clean, test, config.split)
    removed = {"duplicate": once.dropped, "suite_overlap": len(once.rows) - len(clean), "leak": split.leaking}
    pii = {e: data_pii.get(e, 0) + test_pii.get(e, 0) for e in sorted({*data_pii, *test_pii})}
    kept = [row for part in split.rows.values() for row in part]
    checks = [
        _schema(kept),
        _no_pii(kept, config, pii),
        _duplicates(len(rows), once),
        _no_leak(split.rows, split.leaking),
        _no_overlap([*split.rows["train"], *split.rows["validation"]], suites_prompts, removed["suite_overlap"]),
        _enough(split.rows, bool(test), config.min_rows),
    ]
    return Curated(split.rows, removed, pii, [*examples, *test_examples][:SHOWN_ROWS], checks)


def with_system(rows: list[Row], system: str | None) -> list[Row]:
    """Rows with the dataset's system turn in front of those that have none."""
    if not system:
        return rows
    turn = Message("system", system, train=False)
    return [
        row if any(m.role == "system" for m in row.messages) else replace(row, messages=(turn, *row.messages))
        for row in rows
    ]


def asks(row: Row, prompts: frozenset[str]) -> bool:
    """Whether one of the row's user turns is, after normalisation, one of ``prompts``."""
    return any(m.role == "user" and normalise(m.content) in prompts for m in row.messages)


def _schema(kept: list[Row]) -> CheckResult:
    failures = check_schema(frame(kept))
    message = (
        f"All {len(kept)} rows satisfy the schema."
        if not failures
        else f"{len(failures)} violations of the row schema."
    )
    return CheckResult(
        "schema",
        not failures,
        message,
        numbers={"rows": len(kept), "violations": len(failures)},
        rows=[f.to_json() for f in failures[:SHOWN_ROWS]],
    )


def _no_pii(kept: list[Row], config: DatasetConfig, replaced: dict[str, int]) -> CheckResult:
    left = find_secrets(kept, config.pii)
    allowed = f"; left alone on request: {', '.join(config.pii.allow)}" if config.pii.allow else ""
    if config.pii.policy == "off":
        message = "Personal data is not looked for: dataset.yaml sets pii.policy to off."
    else:
        message = (
            f"{sum(replaced.values())} findings replaced; {len(left)} left after scanning the result again{allowed}."
        )
    return CheckResult(
        "no_pii_left",
        not left,
        message,
        numbers={"replaced": sum(replaced.values()), "left": len(left)},
        rows=left[:SHOWN_ROWS],
    )


def _duplicates(before: int, once: Deduplicated) -> CheckResult:
    message = f"{once.dropped} of {before} rows were duplicates and were left out."
    if once.conflicting:
        message += (
            f" conflicting_answers: {len(once.conflicting)} prompts have more than one answer; all of them are kept."
        )
    return CheckResult(
        "duplicates",
        not once.conflicting,
        message,
        severity="warning",
        numbers={"rows": before, "dropped": once.dropped, "conflicting_answers": len(once.conflicting)},
        rows=once.conflicting[:SHOWN_ROWS],
    )


def _no_leak(splits: dict[str, list[Row]], removed: int) -> CheckResult:
    found = leaks(splits)
    return CheckResult(
        "no_split_leak",
        not found,
        f"{len(found)} questions are on two sides of the split; "
        f"{removed} rows were left out because their question is held out.",
        numbers={"leaks": len(found), "removed": removed} | {name: len(part) for name, part in splits.items()},
        rows=found[:SHOWN_ROWS],
    )


def _no_overlap(kept: list[Row], prompts: frozenset[str], removed: int) -> CheckResult:
    left = [row for row in kept if asks(row, prompts)]
    return CheckResult(
        "no_suite_overlap",
        not left,
        f"{removed} rows asked a question of an evaluation suite and were left out; {len(left)} remain "
        f"({len(prompts)} suite prompts compared).",
        numbers={"removed": removed, "left": len(left), "suite_prompts": len(prompts)},
        rows=[{"source": r.source, "prompt": shorten(r.messages[-2].content)} for r in left[:SHOWN_ROWS]],
    )


def _enough(splits: dict[str, list[Row]], own_test: bool, least: int) -> CheckResult:
    counts = {name: len(part) for name, part in splits.items()}
    # The customer's own test rows cannot stand in for examples to learn from.
    usable = counts["train"] + counts["validation"] + (0 if own_test else counts["test"])
    passed = usable >= least and counts["train"] > 0
    sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
    message = f"{usable} rows are left after curation, min_rows is {least} ({sizes})."
    if not passed:
        message += " Add examples, or lower min_rows in dataset.yaml."
    return CheckResult("enough_rows", passed, message, numbers={"rows": usable, "min_rows": least, **counts})
