"""Whether tuning is worth it: the base, plainly asked and shown examples, on the held-out rows, before money is spent."""

from __future__ import annotations

from pathlib import Path

import pytest
from platform_support import Bench, chat_rows
from serving_support import write_base

from ftplatform import assets
from ftplatform.assets.baseline import _worth_tuning
from ftplatform.cli.bases import register
from ftplatform.core.manifests import Baseline
from ftplatform.core.recipe import parse_recipe
from ftplatform.core.rows import Message, Row
from ftplatform.evaluation.few_shot import draw_examples, that_fit, with_examples
from ftplatform.evaluation.items import Item, Turn
from ftplatform.partitions import bases

LINE = "acme/support|tiny@1"


def row(number: int, system: bool = False) -> Row:
    turns = [Message("system", "Be brief.")] if system else []
    turns += [Message("user", f"question {number}"), Message("assistant", f"answer {number}")]
    return Row(messages=tuple(turns), source=f"r:{number}")


def test_the_same_examples_are_drawn_for_the_same_rows_and_seed_in_any_order() -> None:
    rows = [row(number) for number in range(50)]
    drawn = draw_examples(rows, 4, seed=17)
    assert drawn == draw_examples(rows[::-1], 4, seed=17)
    assert drawn != draw_examples(rows, 4, seed=18)
    assert len(drawn) == 4
    assert all([turn.role for turn in example] == ["user", "assistant"] for example in drawn)
    assert len(draw_examples(rows[:2], 4, seed=17)) == 2


def test_examples_stand_behind_the_system_turn_and_before_the_question() -> None:
    item = Item(id="a", messages=(Turn(role="system", content="s"), Turn(role="user", content="q")), reference="r")
    asked = with_examples(item, draw_examples([row(1, system=True)], 1, seed=0))
    assert [turn.content for turn in asked.messages] == ["s", "question 1", "answer 1", "q"]
    assert (asked.id, asked.reference) == (item.id, item.reference)


def test_examples_are_left_out_until_the_longest_question_fits() -> None:
    examples = draw_examples([row(number) for number in range(8)], 8, seed=0)
    items = [Item(id=str(n), messages=(Turn(role="user", content="x" * n),), reference="r") for n in (10, 50)]

    def tokens(turns: object) -> int:
        return sum(len(turn.content) for turn in turns)  # type: ignore[attr-defined]

    assert len(that_fit(examples, items, tokens, 1000)) == 8
    assert len(that_fit(examples, items, tokens, 50 + 3 * 19)) == 3, "an example is 18 characters"
    assert that_fit(examples, items, tokens, 50) == []


@pytest.mark.parametrize(
    ("score", "few_shot", "asked", "target", "worth"),
    [
        (0.1, 0.4, 100, 0.95, True),
        (0.1, 1.0, 100, 0.95, False),
        (1.0, None, 100, 0.95, False),
        (0.1, 1.0, 10, 0.95, True),
        (0.5, 0.8, 100, 0.7, False),
        (0.5, 0.75, 100, 0.7, True),
    ],
)
def test_it_warns_where_the_target_is_shown_to_be_reached(
    score: float, few_shot: float | None, asked: int, target: float, worth: bool
) -> None:
    made = Baseline(base="b@00000000", asked=asked, score=score, few_shot=few_shot, examples=4, target=target)
    check = _worth_tuning(made)
    assert check.passed == worth
    assert not check.blocks
    assert {"base", "n"} <= set(check.numbers)


def test_the_base_is_asked_once_and_the_report_uses_its_answers(tmp_path: Path) -> None:
    bench = Bench()
    tree = bench.parts.store.put_tree(write_base(tmp_path / "base"))
    key = register(bench.parts, "tiny", {"kind": "folder", "tree": tree})
    bench.instance.add_dynamic_partitions(bases.name or "", [str(key)])
    assert bench.run([assets.base_model], str(key)).success
    training = {"learning_rate": 0.003, "max_steps": 1, "batch_size": 2, "max_length": 256}
    bench.parts.catalog.recipes.add(parse_recipe({"name": "tiny", "version": 1, "base": "tiny", "training": training}))
    assert bench.data_run("acme/support", {"rows.jsonl": chat_rows(60), "dataset.yaml": "few_shot: 1\n"}).success
    result = bench.run([assets.training_plan, assets.baseline], LINE)
    assert result.success, bench.failure(result)
    made = result.output_for_node("baseline")
    heldout = next(suite for suite in result.output_for_node("training_plan").suites if suite.name == "heldout")
    assert (made.asked, made.examples) == (heldout.n, 1)
    assert made.few_shot is not None
    assert bench.check("baseline", "worth_tuning", LINE) == "SUCCEEDED", "a random model is worth tuning"

    folder = bench.parts.settings.home / "payloads"
    starts = (folder / "starts.jsonl").read_text()
    again = bench.run([assets.training_plan, assets.baseline], LINE)
    assert again.output_for_node("baseline") == made
    assert (folder / "starts.jsonl").read_text() == starts, "known scores start nothing"

    assert bench.data_run("acme/support", {"rows.jsonl": chat_rows(60), "dataset.yaml": "check_base: false\n"}).success
    unasked = bench.run([assets.training_plan, assets.baseline], LINE)
    assert unasked.output_for_node("baseline").asked == 0
    assert (folder / "starts.jsonl").read_text() == starts
