"""What curation says about its own result, as checks with numbers and the worst rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.rows import SPLITS, Row
from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.compare.columns import Columns
from ftplatform.data.compare.contamination import KINDS
from ftplatform.data.compare.split import TEST, TRAIN, VALIDATION, leaks
from ftplatform.data.curation.decide import Decision
from ftplatform.data.curation.prepare import Totals
from ftplatform.data.curation.verify import Verified
from ftplatform.data.language.detect import UNDETERMINED
from ftplatform.data.language.toxicity import check_toxicity
from ftplatform.data.text import SHOWN_ROWS, shorten

MUCH = 0.2
"""Share of training whose removal as contamination says more about the split than about the rows."""

ReferenceName = Callable[[int], tuple[str, str]]
"""Number of a reference -> (where it comes from, its text)."""


def verified_checks(found: Verified, config: DatasetConfig, totals: Totals) -> list[CheckResult]:
    """``schema``, ``no_pii_left`` and ``toxicity``."""
    return [_schema(found), _no_pii(found, config, totals), _toxicity(config, totals)]


def decided_checks(
    columns: Columns, decision: Decision, prepared: Path, config: DatasetConfig, totals: Totals, names: ReferenceName
) -> list[CheckResult]:
    """``duplicates``, ``near_duplicates``, ``no_split_leak``, ``no_suite_overlap``, ``contamination``, ``language`` and
    ``enough_rows``; ``prepared`` is read for the rows that are shown.
    """
    leak_count, leak_rows = leaks(columns, decision.sides)
    near, found = decision.near, decision.contamination
    overlapping = np.flatnonzero((np.asarray(columns.asked) >= 0) & np.isin(decision.sides, (TRAIN, VALIDATION)))
    wanted = {row for group in decision.exact.conflicts for row in group}
    wanted |= {row for leak in leak_rows for row in (leak.teaches, leak.held_out)}
    wanted |= {int(row) for row in overlapping[:SHOWN_ROWS]}
    for pairs in ((near.later, near.earlier) if near else (), (found.rows, found.held_out)):
        wanted |= {int(row) for side in pairs for row in side[:SHOWN_ROWS] if row < len(columns)}
    rows = pick(prepared, wanted)
    return [
        _duplicates(decision, columns, rows),
        _near(decision, config, rows),
        _no_leak(leak_count, [_leak(leak, rows) for leak in leak_rows], decision, _unused_group(columns, config)),
        _no_overlap(overlapping, decision, rows, names, columns),
        _contamination(columns, decision, config, rows, names),
        _language(config, totals),
        _enough(decision, config),
    ]


def pick(path: Path, numbers: Iterable[int]) -> dict[int, Row]:
    """Some rows of a file by their numbers, in one pass that ends at the last of them."""
    left = sorted(set(numbers))
    picked: dict[int, Row] = {}
    at = 0
    for block in read_blocks(path):
        if not left:
            break
        lines = block.splitlines()
        while left and left[0] < at + len(lines):
            picked[left[0]] = rows_of(lines[left[0] - at])[0]
            left.pop(0)
        at += len(lines)
    return picked


def asked_text(row: Row) -> str:
    """What a row asks, for a table: its last user turn, or the beginning of its document."""
    return shorten(next((m.content for m in reversed(row.messages) if m.role == "user"), row.text))


def _schema(found: Verified) -> CheckResult:
    count = found.violation_count
    return CheckResult(
        "schema",
        not count,
        f"All {found.rows} rows satisfy the schema." if not count else f"{count} violations of the row schema.",
        numbers={"rows": found.rows, "violations": count},
        rows=[f.to_json() for f in found.violations],
    )


def _no_pii(found: Verified, config: DatasetConfig, totals: Totals) -> CheckResult:
    done = sum(totals.pii.values())
    if config.pii.policy == "off":
        message = "Personal data is not looked for: dataset.yaml sets pii.policy to off."
    else:
        allowed = sorted({*config.pii.allow, *(e for e, action in config.pii.entities.items() if action == "allow")})
        message = f"{done} findings treated; {found.personal_count} left after scanning the result again"
        message += f"; left alone on request: {', '.join(allowed)}." if allowed else "."
    return CheckResult(
        "no_pii_left",
        not found.personal_count,
        message,
        numbers={"replaced": done, "left": found.personal_count},
        rows=found.personal,
    )


def _toxicity(config: DatasetConfig, totals: Totals) -> CheckResult:
    if config.toxicity.policy == "off":
        return CheckResult("toxicity", True, "Not looked for: toxicity.policy is off.", severity="warning")
    return check_toxicity(totals.toxicity, config.toxicity)


def _duplicates(decision: Decision, columns: Columns, rows: dict[int, Row]) -> CheckResult:
    dropped, conflicting = decision.removed["duplicate"], decision.exact.conflicting
    message = f"{dropped} of {len(columns)} rows were duplicates and were left out."
    if conflicting:
        message += f" conflicting_answers: {conflicting} prompts have more than one answer; all of them are kept."
    groups = [[rows[i] for i in group] for group in decision.exact.conflicts]
    return CheckResult(
        "duplicates",
        not conflicting,
        message,
        severity="warning",
        numbers={"rows": len(columns), "dropped": dropped, "conflicting_answers": conflicting},
        rows=[
            {
                "prompt": asked_text(group[0]),
                "answers": ", ".join(shorten(_answer(row), 40) for row in group),
                "sources": ", ".join(row.source for row in group),
            }
            for group in groups
        ],
    )


def _answer(row: Row) -> str:
    turns = row.chosen or row.messages
    return turns[-1].content if turns else row.text


def _near(decision: Decision, config: DatasetConfig, rows: dict[int, Row]) -> CheckResult:
    near = decision.near
    if near is None:
        return CheckResult("near_duplicates", True, "Not looked for: duplicates.near is off.", severity="warning")
    done = "left out" if config.duplicates.near == "drop" else "kept (duplicates.near: report)"
    shown = zip(near.later[:SHOWN_ROWS], near.earlier, near.similarity, strict=False)
    return CheckResult(
        "near_duplicates",
        not len(near.later) or config.duplicates.near == "drop",
        f"{len(near.later)} rows nearly repeat an earlier one (similarity {config.duplicates.threshold} or more): {done}.",
        severity="warning",
        numbers={"near_duplicates": len(near.later)},
        rows=[
            {
                "row": rows[int(later)].source,
                "repeats": rows[int(earlier)].source,
                "similarity": round(float(like), 3),
                "prompt": asked_text(rows[int(later)]),
            }
            for later, earlier, like in shown
        ],
    )


def _leak(leak: Any, rows: dict[int, Row]) -> dict[str, str]:
    return {
        "teaches": f"{SPLITS[leak.side]}: {rows[leak.teaches].source}",
        "held_out": f"{SPLITS[leak.later]}: {rows[leak.held_out].source}",
    }


def _unused_group(columns: Columns, config: DatasetConfig) -> str:
    """A sentence when rows were to be grouped by a tag that none has, most likely a typing error."""
    if config.split.group_by is None or not np.isnan(columns.group_place).all():
        return ""
    return f" No row has the tag {config.split.group_by!r} of split.group_by: rows were placed by their questions."


def _no_leak(count: int, shown: list[dict[str, str]], decision: Decision, unused: str) -> CheckResult:
    removed = decision.removed["leak"]
    sizes = {name: int((decision.sides == side).sum()) for side, name in enumerate(SPLITS)}
    return CheckResult(
        "no_split_leak",
        not count and not unused,
        f"{count} rows give away a question, or share the group, of a later side of the split; "
        f"{removed} rows were left out because they did.{unused}",
        "error" if count else "warning",
        numbers={"leaks": count, "removed": removed} | sizes,
        rows=shown,
    )


def _no_overlap(
    left: Any, decision: Decision, rows: dict[int, Row], names: ReferenceName, columns: Columns
) -> CheckResult:
    removed = decision.removed["suite_overlap"]
    return CheckResult(
        "no_suite_overlap",
        not len(left),
        f"{removed} rows asked a question of an evaluation suite and were left out; {len(left)} remain.",
        numbers={"removed": removed, "left": len(left)},
        rows=[
            {
                "source": rows[int(row)].source,
                "asks": names(int(columns.asked[row]))[0],
                "prompt": asked_text(rows[int(row)]),
            }
            for row in left[:SHOWN_ROWS]
        ],
    )


def _contamination(
    columns: Columns, decision: Decision, config: DatasetConfig, rows: dict[int, Row], names: ReferenceName
) -> CheckResult:
    found = decision.contamination
    counts = {kind: found.count(number) for number, kind in enumerate(KINDS)}
    refuse = config.contamination.policy == "refuse"
    what = ", ".join(f"{kind} {count}" for kind, count in counts.items())

    def held(number: int) -> str:
        if number >= len(columns):
            origin, text = names(number - len(columns))
            return f"{origin}: {shorten(text)}" if text else origin
        return f"{SPLITS[max(0, int(decision.sides[number]))]}: {rows[number].source}"

    shown = zip(found.rows[:SHOWN_ROWS].tolist(), found.held_out.tolist(), found.kind.tolist(), strict=False)
    share = len(found.rows) / max(1, len(found.rows) + int((decision.sides == TRAIN).sum()))
    message = (
        f"{len(found.rows)} training rows repeat held-out rows, evaluation suites or earlier held-out rows ({what}): "
    )
    message += "contamination.policy refuses them." if refuse else "left out."
    if share > MUCH:
        message += (
            f" That is {share:.0%} of training: rows that share documents or templates belong together; name what they share "
            "as a tag and set split.group_by to it."
        )
    return CheckResult(
        "contamination",
        share <= MUCH and not (refuse and len(found.rows)),
        message,
        severity="error" if refuse else "warning",
        numbers={"contaminated": len(found.rows), **counts},
        rows=[
            {"row": rows[row].source, "overlap": KINDS[kind], "with": held(number), "prompt": asked_text(rows[row])}
            for row, number, kind in shown
        ],
    )


def _language(config: DatasetConfig, totals: Totals) -> CheckResult:
    if not config.language.detect:
        return CheckResult("language", True, "Not looked for: language.detect is off.", severity="warning")
    counts = totals.languages.most_common(8)
    message = "Rows by language: " + ", ".join(f"{name} {count}" for name, count in counts) + "."
    allowed = config.language.allow
    others = sum(n for name, n in totals.languages.items() if name not in allowed and name != UNDETERMINED)
    if allowed:
        done = "left out" if config.language.others == "drop" else "kept and tagged"
        message += f" {others} rows are in none of {', '.join(allowed)}: {done}."
    return CheckResult(
        "language",
        not (allowed and others and config.language.others == "flag"),
        message,
        severity="warning",
        numbers={f"rows_{name}": count for name, count in counts},
    )


def _enough(decision: Decision, config: DatasetConfig) -> CheckResult:
    counts = {name: int((decision.sides == side).sum()) for side, name in enumerate(SPLITS)}
    # The customer's own test rows cannot stand in for examples to learn from.
    usable = sum(counts.values()) - (counts[SPLITS[TEST]] if decision.own_test else 0)
    passed = usable >= config.min_rows and counts["train"] > 0
    sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
    message = f"{usable} rows are left after curation, min_rows is {config.min_rows} ({sizes})."
    if not passed:
        message += " Add examples, or lower min_rows in dataset.yaml."
    return CheckResult("enough_rows", passed, message, numbers={"rows": usable, "min_rows": config.min_rows, **counts})
