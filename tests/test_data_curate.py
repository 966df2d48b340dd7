"""Curation: duplicates, evaluation questions and leaks go; the checks look at the result itself."""

from __future__ import annotations

import random

import pytest

from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.dataset_config import DatasetConfig, SplitConfig, parse_dataset_config
from ftplatform.core.rows import Message, Row
from ftplatform.data.curate import Curated, curate
from ftplatform.data.dedup import deduplicate
from ftplatform.data.keys import question
from ftplatform.data.schema import check_schema, frame
from ftplatform.data.split import leaks, split_rows
from ftplatform.data.text import normalise


def row(*turns: str, source: str = "a.jsonl:1", system: str | None = None) -> Row:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text, i % 2 == 1) for i, text in enumerate(turns)]
    return Row((*([Message("system", system, False)] if system else []), *messages), source)


def many(count: int, start: int = 0) -> list[Row]:
    return [row(f"question {i}", f"answer {i}", source=f"a.jsonl:{i + 1}") for i in range(start, start + count)]


def check(result: Curated, name: str) -> CheckResult:
    return next(c for c in result.checks if c.name == name)


CONFIG = DatasetConfig()


def test_duplicates_differ_only_in_case_outer_space_and_unicode_form() -> None:
    rows = [row("Où est ma carte?", "A"), row("  où est ma carte?\n", "a"), row("Ou\u0300 est ma carte?", "A ")]
    once = deduplicate([*rows, row("Ou est ma carte?", "A")])
    assert [r.messages[0].content for r in once.rows] == ["Où est ma carte?", "Ou est ma carte?"]
    assert once.dropped == 2
    assert once.conflicting == []


def test_one_question_with_two_answers_is_kept_on_one_side_and_warned_about() -> None:
    rows = many(200) + [row(f"QUESTION {i}", "another", source=f"b.jsonl:{i + 1}") for i in range(200)]
    result = curate(rows, [], CONFIG, frozenset())
    duplicates = check(result, "duplicates")
    assert (duplicates.passed, duplicates.severity, duplicates.numbers["conflicting_answers"]) == (
        False,
        "warning",
        200,
    )
    assert sum(len(part) for part in result.splits.values()) == 400
    assert not leaks(result.splits)
    assert not blocking(result.checks)


@pytest.mark.parametrize("seed", range(8))
def test_no_question_is_on_two_sides_for_random_conversations(seed: int) -> None:
    rng = random.Random(seed)

    def turns() -> list[str]:
        # Few words, so that conversations often share their beginnings, in other case and spacing.
        asked = [
            rng.choice([w, w.upper(), f" {w} "]) for w in rng.choices(["hi", "a", "b", "c", "d"], k=rng.randint(1, 3))
        ]
        return [text for word in asked for text in (word, f"re {normalise(word)}")]

    rows = [row(*turns(), source=f"a:{i}", system=rng.choice([None, "S"])) for i in range(150)]
    own_test = [row(*turns(), source=f"t:{i}") for i in range(rng.choice([0, 5]))]
    split = split_rows(rows, own_test, SplitConfig(validation=0.2, test=0.3))
    assert leaks(split.rows) == []
    asked_in_test = {question(r) for r in split.rows["test"]}
    for other in ("train", "validation"):
        assert not asked_in_test & {question(r) for r in split.rows[other]}
    assert sum(len(part) for part in split.rows.values()) + split.leaking == len(rows) + len(own_test)


def test_the_split_is_the_same_again_and_rows_never_move_as_data_grows() -> None:
    config = SplitConfig(validation=0.1, test=0.2)
    small, large = split_rows(many(300), [], config).rows, split_rows(many(3000), [], config).rows
    for side, part in small.items():
        assert {r.hash for r in part} <= {r.hash for r in large[side]}
    assert split_rows(list(reversed(many(300))), [], config).rows["train"] == list(reversed(small["train"]))
    assert [round(len(part) / 3000, 1) for part in large.values()] == [0.7, 0.1, 0.2]


def test_training_rows_that_ask_an_own_test_question_are_removed_and_counted() -> None:
    own = [
        row("question 3", "the customer's answer", source="test.jsonl:1"),
        row("Question 5 ", "x", source="test.jsonl:2"),
    ]
    conversation = row("question 3", "a leak", "and now?", "then", source="b.jsonl:1")
    result = curate([*many(40), conversation], own, CONFIG, frozenset())
    assert result.removed["leak"] == 3
    assert [r.source for r in result.splits["test"]] == ["test.jsonl:1", "test.jsonl:2"]
    kept = {r.source for r in result.splits["train"] + result.splits["validation"]}
    assert not kept & {"a.jsonl:4", "a.jsonl:6", "b.jsonl:1"}
    assert check(result, "no_split_leak").passed


def test_the_leak_check_sees_a_leak_that_is_put_in_by_hand() -> None:
    splits = {
        "train": [row("Hi", "yes", "Q", "A", source="t:1")],
        "validation": [],
        "test": [row("hi ", "no", source="e:1")],
    }
    assert leaks(splits) == [{"teaches": "train: t:1", "held_out": "test: e:1"}]


def test_questions_of_evaluation_suites_are_removed_from_what_is_trained_on() -> None:
    rows = [*many(20), row("What is 2+2?", "4", source="b:1"), row("Hello", "Hi", " what is 2+2? ", "4", source="b:2")]
    result = curate(rows, [], CONFIG, frozenset({normalise("What is 2+2?")}))
    assert result.removed["suite_overlap"] == 2
    overlap = check(result, "no_suite_overlap")
    assert (overlap.passed, overlap.numbers["removed"], overlap.numbers["left"]) == (True, 2, 0)


def test_personal_data_is_replaced_before_duplicates_are_looked_for() -> None:
    rows = [*many(20), row("I am jo@example.com", "ok", source="b:1"), row("I am al@example.com", "ok", source="b:2")]
    result = curate(rows, [], CONFIG, frozenset())
    assert result.pii == {"EMAIL_ADDRESS": 2}
    assert result.removed["duplicate"] == 1
    assert check(result, "no_pii_left").passed
    assert check(result, "no_pii_left").numbers == {"replaced": 2, "left": 0}


def test_the_system_turn_goes_in_front_of_rows_without_one() -> None:
    config = parse_dataset_config({"system": "Be brief."})
    result = curate([*many(20), row("q", "a", system="Mine")], [row("t", "a", source="t:1")], config, frozenset())
    firsts = [r.messages[0] for part in result.splits.values() for r in part]
    assert {m.role for m in firsts} == {"system"}
    assert {m.content for m in firsts} == {"Be brief.", "Mine"}
    assert not any(m.train for m in firsts)


def test_too_few_rows_after_curation_block() -> None:
    result = curate([row("same", "same", source=f"a:{i}") for i in range(50)], [], CONFIG, frozenset())
    assert [c.name for c in blocking(result.checks)] == ["enough_rows"]
    assert "min_rows is 10" in check(result, "enough_rows").message


def test_own_test_rows_do_not_count_as_examples() -> None:
    own = [row(f"t{i}", "a", source=f"t:{i}") for i in range(50)]
    assert not check(curate(many(5), own, CONFIG, frozenset()), "enough_rows").passed


def test_curation_gives_the_same_result_again() -> None:
    assert curate(many(60), [], CONFIG, frozenset()) == curate(many(60), [], CONFIG, frozenset())


def test_every_schema_violation_is_reported_with_its_source() -> None:
    bad = [
        Row((Message("user", "q", False),), "a.jsonl:2"),
        Row((Message("user", "q", False), Message("assistant", "  ")), "a.jsonl:3"),
        Row((Message("robot", "q", False), Message("assistant", "a")), "a.jsonl:4"),
        Row((Message("user", "q", False), Message("assistant", "a", False)), "a.jsonl:5"),
    ]
    failures = check_schema(frame([*many(1), *bad]))
    assert {(f.line, f.path) for f in failures} >= {
        (2, "last_role"),
        (2, "turns"),
        (3, "empty"),
        (4, "roles"),
        (5, "trained"),
    }
    assert all(f.line != 1 for f in failures)
    assert check_schema(frame(many(3))) == []
    assert check_schema(frame([])) == []


def test_a_schema_violation_blocks() -> None:
    broken = Row((Message("user", "q", False), Message("robot", "x"), Message("assistant", "a")), "b:1")
    result = curate([*many(20), broken], [], CONFIG, frozenset())
    assert [c.name for c in blocking(result.checks)] == ["schema"]
