"""Contamination: training rows that repeat a held-out question, exactly, nearly, or a passage of it."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ftplatform.core.dataset_config import ContaminationConfig, SplitConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.compare.columns import DATA, TEST_FILE, Columns, ColumnWriter, block_keys
from ftplatform.data.compare.contamination import EXACT, NEAR, NGRAM, Contamination, find_contamination
from ftplatform.data.compare.dedup import find_exact
from ftplatform.data.compare.split import OUT, TEST, TRAIN, VALIDATION, remove_leaks, split_sides
from ftplatform.data.text import normalise

CONFIG = ContaminationConfig()


def row(*turns: str, system: str | None = None) -> Row:
    messages = [Message(("user", "assistant")[i % 2], text, i % 2 == 1) for i, text in enumerate(turns)]
    return Row((*([Message("system", system, False)] if system else []), *messages), "a.jsonl:1")


def prompt(text: str) -> Row:
    return Row((Message("user", text, False),), "suite:1", kind="prompt")


def sentence(rng: random.Random, words: int) -> str:
    return " ".join("".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(words))


def columns(folder: Path, rows: list[Row], held: Sequence[Row] = (), suites: Sequence[Row] = ()) -> Columns:
    prompts = {normalise(suite.messages[-1].content): i for i, suite in enumerate(suites)}
    writer = ColumnWriter(folder)
    writer.add(block_keys(rows, prompts=prompts))
    writer.add(block_keys(held, prompts=prompts), TEST_FILE)
    return writer.close()


def found(folder: Path, rows: list[Row], held: list[Row], suites: Sequence[Row] = (), **config: object) -> list[tuple]:
    data = columns(folder / "data", rows, held, suites)
    references = columns(folder / "references", suites) if suites else None
    test = data.origin == TEST_FILE
    overlap = find_contamination(data, ~test, test, references, CONFIG.model_copy(update=config), folder=folder)
    return list(zip(overlap.rows.tolist(), overlap.kind.tolist(), overlap.held_out.tolist(), strict=True))


def test_questions_of_a_suite_are_found_in_every_user_turn_whatever_their_case(tmp_path: Path) -> None:
    rows = [
        row("What is 2*2?", "4"),
        row("Hello", "Hi", " WHAT is 2+2? ", "4"),
        row("what is 2+2?", "4"),
        row("x", "y"),
    ]
    assert found(tmp_path, rows, [], [prompt("Who?"), prompt("What is 2+2?")]) == [(1, EXACT, 5), (2, EXACT, 5)]


def test_a_question_that_an_earlier_version_held_out_is_found_also_in_an_earlier_turn(tmp_path: Path) -> None:
    held = [row("q", "a"), row("hi", "hello", "my card?", "b")]
    rows = [row("q", "z", "r", "b"), row("s", "c"), row("hi", "hello", "My card?", "other")]
    assert found(tmp_path, rows, [], held) == [(0, EXACT, 3), (2, EXACT, 4)]


def test_nearly_the_same_question_is_found_and_the_similarity_told(tmp_path: Path) -> None:
    rng = random.Random(1)
    # Longer than a passage of 30 words would be found as one.
    asked = sentence(rng, 25)
    rows = [row(sentence(rng, 25), "a"), row(asked + " please", "a"), row(" ".join(asked.split()[:12]), "a")]
    held = [*(row(sentence(rng, 25), "b") for _ in range(30)), row(asked, "b")]
    assert found(tmp_path, rows, held, ngram=30) == [(1, NEAR, 33)]


def test_a_passage_of_a_held_out_question_is_found_wherever_it_stands(tmp_path: Path) -> None:
    rng = random.Random(2)
    passage, edge = sentence(rng, 13), sentence(rng, 12)
    held = [row(f"{sentence(rng, 20)} {passage} {sentence(rng, 20)}", "b"), row(f"{edge} {sentence(rng, 9)}", "b")]
    rows = [
        row(f"{sentence(rng, 40)} {passage}, {sentence(rng, 3)}", "a"),
        row("tell me", f"{sentence(rng, 5)} {passage.upper()}"),
        row(f"{edge} {sentence(rng, 30)}", "a"),
    ]
    assert found(tmp_path, rows, held) == [(0, NGRAM, 3), (1, NGRAM, 3)]
    assert [kind for _, kind, _ in found(tmp_path, rows, held, ngram=12)] == [NGRAM] * 3


def test_answers_and_system_turns_may_recur(tmp_path: Path) -> None:
    rng = random.Random(3)
    system, reply = sentence(rng, 60), sentence(rng, 60)
    rows = [row(sentence(rng, 8), reply, system=system) for _ in range(5)]
    assert found(tmp_path, rows, [row(sentence(rng, 8), reply, system=system)]) == []


def test_an_instruction_that_most_rows_share_is_not_contamination_but_its_question_is(tmp_path: Path) -> None:
    rng = random.Random(4)
    instruction = sentence(rng, 80)
    asked = [sentence(rng, 14) for _ in range(40)]
    rows = [row(f"{instruction}\n{text}", "a") for text in asked]
    held = [row(f"{instruction}\n{sentence(rng, 14)}", "b"), row(f"{instruction}\n{asked[3]} {sentence(rng, 9)}", "b")]
    assert found(tmp_path, rows, held) == [(3, NGRAM, 41)]


def test_rulers_of_tables_are_no_passage(tmp_path: Path) -> None:
    rng = random.Random(5)
    ruler = "|---|---|---|---|---|---|---|---|"
    assert found(tmp_path, [row(f"{sentence(rng, 9)} {ruler}", "a")], [row(f"{ruler} {sentence(rng, 9)}", "b")]) == []


def test_a_full_filter_costs_time_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftplatform.data.compare import passages

    rng = random.Random(6)
    held = [row(sentence(rng, 30), "b") for _ in range(30)]
    rows = [row(f"{sentence(rng, 20)} {' '.join(h.messages[0].content.split()[8:21])}", "a") for h in held[::2]]
    whole = found(tmp_path / "a", rows, held)
    assert [(r, h) for r, _, h in whole] == [(i, 15 + 2 * i) for i in range(15)]
    monkeypatch.setattr(passages, "_MOST_BITS", 5)
    monkeypatch.setattr(passages, "_PARTS", 2)
    assert found(tmp_path / "b", rows, held) == whole


def test_nothing_is_found_without_anything_held_out(tmp_path: Path) -> None:
    assert found(tmp_path, [row("q", "a")], []) == []
    assert found(tmp_path, [row("?", "a"), row("", "a")], [row("!", "b")]) == []


# Real and templated data: removal must not eat a dataset whose rows are alike by nature.


def overlap(folder: Path, rows: list[Row], own: Sequence[Row] = ()) -> tuple[Contamination, int]:
    data = columns(folder, rows, own)
    sides = split_sides(data.place, data.group_place, data.origin, SplitConfig())
    sides[~find_exact(data.exact, data.subject, data.origin == DATA).keep] = OUT
    sides, _ = remove_leaks(data, sides)
    assert {TRAIN, VALIDATION, TEST} <= set(sides.tolist())
    held = np.isin(sides, (VALIDATION, TEST))
    return find_contamination(data, sides == TRAIN, held, None, CONFIG, folder=folder), int((sides == TRAIN).sum())


def test_the_demos_templated_tickets_are_not_removed_for_being_alike(tmp_path: Path) -> None:
    from ftplatform.demo.datasets import write_good_dataset

    lines = write_good_dataset(tmp_path / "demo").read_text().splitlines()
    found, train = overlap(tmp_path, [Row.from_json({**json.loads(line), "source": "a:1"}) for line in lines])
    assert 0 < len(found.rows) < 0.05 * train


def test_banking77_loses_its_repeated_questions_and_little_else(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    own, rows = (
        [row(line["text"], line["category"]) for line in csv.DictReader((folder / name).open(encoding="utf-8"))]
        for name in ("banking77_test.csv", "banking77_train.csv")
    )
    found, train = overlap(tmp_path, rows, own)
    assert found.count(EXACT) == 0, "remove_leaks takes exact repeats out first"
    assert 20 < len(found.rows) < 0.01 * train
