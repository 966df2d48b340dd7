"""The split: by the question alone or its group, the same for ever, with no question on two sides."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftplatform.core.dataset_config import SplitConfig
from ftplatform.core.digests import digest_bytes, digest_json
from ftplatform.core.rows import Message, Row, ToolCall
from ftplatform.data.compare.columns import DATA, TEST_FILE, VALIDATION_FILE, Columns, ColumnWriter, block_keys
from ftplatform.data.compare.keys import place, question, row_keys
from ftplatform.data.compare.split import OUT, TEST, TRAIN, VALIDATION, Leak, leaks, remove_leaks, split_sides
from ftplatform.data.text import normalise

UNTIMED = settings(deadline=None)
CONFIG = SplitConfig(validation=0.1, test=0.2)


def row(*turns: str, system: str | None = None, **tags: str) -> Row:
    messages = [Message(("user", "assistant")[i % 2], text, i % 2 == 1) for i, text in enumerate(turns)]
    return Row((*([Message("system", system, False)] if system else []), *messages), "a.jsonl:1", tags)


def many(count: int) -> list[Row]:
    return [row(f"question {i}", f"answer {i}") for i in range(count)]


def columns(folder: Path, *parts: tuple[list[Row], int], group_by: str | None = None) -> Columns:
    writer = ColumnWriter(folder)
    for rows, origin in parts:
        writer.add(block_keys(rows, group_by=group_by), origin)
    return writer.close()


def sides_of(rows: list[Row], config: SplitConfig = CONFIG, group_by: str | None = None) -> list[int]:
    block = block_keys(rows, group_by=group_by)
    return split_sides(block.place, block.group_place, np.zeros(len(rows), np.int8), config).tolist()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@UNTIMED
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), texts), min_size=1, max_size=5))
def test_the_question_key_and_its_place_are_those_of_the_first_release(turns: list[tuple[str, str]]) -> None:
    conversation = Row(tuple(Message(role, text) for role, text in [*turns, ("assistant", "yes")]), "a:1")
    key = digest_json([[role, normalise(text)] for role, text in turns if role != "system"])
    assert question(conversation) == key
    assert place(key) == int(digest_bytes(f"ftplatform/split/{key}".encode())[:13], 16) / 16**13
    assert row_keys(conversation).place == place(key)
    assert row_keys(conversation).question.hex() == key[:32]


@UNTIMED
@given(st.lists(texts, max_size=30), st.lists(texts, max_size=30), st.randoms())
def test_rows_that_come_or_go_never_move_another_row(old: list[str], new: list[str], rng: random.Random) -> None:
    before = dict(zip(old, sides_of([row(q, "a") for q in old]), strict=True))
    together = [*old, *new]
    rng.shuffle(together)
    after = dict(zip(together, sides_of([row(q, "a") for q in together]), strict=True))
    assert all(after[q] == side for q, side in before.items())


def test_the_shares_are_those_asked_for() -> None:
    sides = np.array(sides_of(many(3000)))
    assert [round(float((sides == side).mean()), 1) for side in (TRAIN, VALIDATION, TEST)] == [0.7, 0.1, 0.2]


@UNTIMED
@given(st.lists(st.tuples(texts, st.sampled_from("abcdefgh")), min_size=1, max_size=40))
def test_a_group_is_never_on_two_sides(rows: list[tuple[str, str]]) -> None:
    sides = sides_of([row(q, "a", customer=group) for q, group in rows], group_by="customer")
    by_group: dict[str, set[int]] = {}
    for (_, group), side in zip(rows, sides, strict=True):
        by_group.setdefault(group, set()).add(side)
    assert all(len(found) == 1 for found in by_group.values())


def test_groups_spread_over_the_sides_and_rows_without_one_are_placed_by_their_question() -> None:
    grouped = sides_of([row("same", "a", customer=str(i)) for i in range(400)], group_by="customer")
    assert set(grouped) == {TRAIN, VALIDATION, TEST}
    assert sides_of(many(50), group_by="customer") == sides_of(many(50))


def test_own_held_out_files_stand_where_the_customer_put_them_and_nothing_else_is_held_out(tmp_path: Path) -> None:
    own_validation, own_test = [row(f"v{i}", "a") for i in range(9)], [row(f"t{i}", "a") for i in range(8)]
    data = columns(tmp_path, (many(300), DATA), (own_validation, VALIDATION_FILE), (own_test, TEST_FILE))
    sides = split_sides(data.place, data.group_place, data.origin, CONFIG)
    assert sides.tolist() == [TRAIN] * 300 + [VALIDATION] * 9 + [TEST] * 8
    named = SplitConfig(test_files=("gone.jsonl",), validation=0.1)
    assert TEST not in sides_of(many(300), named)
    assert VALIDATION in sides_of(many(300), named)


def test_training_rows_that_ask_an_own_test_question_are_left_out_and_counted(tmp_path: Path) -> None:
    own = [row("question 3", "the customer's answer"), row("Question 5 ", "x")]
    conversation = row("question 3", "a leak", "and now?", "then")
    data = columns(tmp_path, ([*many(40), conversation], DATA), (own, TEST_FILE))
    placed = split_sides(data.place, data.group_place, data.origin, SplitConfig(validation=0.0))
    assert leaks(data, placed)[0] == 3
    sides, out = remove_leaks(data, placed)
    assert out == 3
    assert np.flatnonzero(sides == OUT).tolist() == [3, 5, 40]
    assert sides[41:].tolist() == [TEST, TEST]
    assert leaks(data, sides) == (0, [])


def test_a_turn_that_is_not_trained_on_teaches_nothing(tmp_path: Path) -> None:
    shown = Row((Message("user", "q", False), Message("assistant", "a", False), *row("r", "b").messages), "a:1")
    data = columns(tmp_path, ([shown, row("q", "a", "r", "b")], DATA), ([row("q", "a")], TEST_FILE))
    sides, _ = remove_leaks(data, split_sides(data.place, data.group_place, data.origin, SplitConfig(validation=0.0)))
    assert sides.tolist() == [TRAIN, OUT, TEST]


def test_training_rows_of_a_group_in_the_customers_test_file_are_left_out(tmp_path: Path) -> None:
    data = columns(
        tmp_path,
        ([row("a", "1", customer="x"), row("b", "1", customer="y"), row("c", "1")], DATA),
        ([row("d", "1", customer="x")], TEST_FILE),
        group_by="customer",
    )
    sides, _ = remove_leaks(data, split_sides(data.place, data.group_place, data.origin, SplitConfig(validation=0.0)))
    assert sides.tolist() == [OUT, TRAIN, TRAIN, TEST]


@pytest.mark.parametrize("seed", range(6))
def test_no_question_is_on_two_sides_for_random_conversations(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)

    def turns() -> list[str]:
        # Few words, so that conversations often share their beginnings, in other case and spacing.
        asked = [
            rng.choice([w, w.upper(), f" {w} "]) for w in rng.choices(["hi", "a", "b", "c", "d"], k=rng.randint(1, 3))
        ]
        return [text for word in asked for text in (word, f"re {normalise(word)}")]

    rows = [row(*turns(), system=rng.choice([None, "S"])) for _ in range(150)]
    own = [row(*turns()) for _ in range(rng.choice([0, 5]))]
    data = columns(tmp_path, (rows, DATA), (own, TEST_FILE))
    placed = split_sides(data.place, data.group_place, data.origin, SplitConfig(validation=0.2, test=0.3))
    sides, out = remove_leaks(data, placed)
    assert leaks(data, sides) == (0, [])
    for side, later in ((TRAIN, (VALIDATION, TEST)), (VALIDATION, (TEST,))):
        held = {question(r) for r, s in zip([*rows, *own], sides, strict=True) if s in later}
        assert not held & {question(r) for r, s in zip([*rows, *own], sides, strict=True) if s == side}
    assert out == int((sides == OUT).sum())
    assert (sides[150:] == TEST).all()


def test_the_leak_check_sees_a_leak_that_is_put_in_by_hand(tmp_path: Path) -> None:
    data = columns(tmp_path, ([row("Hi", "yes", "Q", "A"), row("other", "b"), row("hi ", "no")], DATA))
    assert leaks(data, np.array([TRAIN, VALIDATION, TEST], np.int8)) == (1, [Leak(0, TRAIN, 2, TEST)])


def test_the_same_prompt_is_one_question_whatever_the_kind_of_row() -> None:
    prompt = (Message("user", "Which card?", False),)
    answer = (Message("assistant", "the red one"),)
    rows = [
        Row((*prompt, *answer), "a:1"),
        Row(prompt, "a:2", kind="preference", chosen=answer, rejected=(Message("assistant", "none"),)),
        Row((*prompt, *answer), "a:3", kind="labelled", label=False),
        Row(prompt, "a:4", kind="prompt"),
    ]
    assert len({row_keys(r).question for r in rows}) == 1
    assert len({row_keys(r).exact for r in rows}) == 4


def test_calls_of_tools_are_part_of_what_is_said() -> None:
    def called(city: str) -> Row:
        call = Message("assistant", "", tool_calls=(ToolCall("1", "weather", f'{{"city":"{city}"}}'),))
        return Row((Message("user", "Weather?", False), call), "a:1")

    assert row_keys(called("Rome")).exact != row_keys(called("Oslo")).exact
    assert row_keys(called("Rome")).question == row_keys(called("Oslo")).question
