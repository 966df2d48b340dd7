"""The bench's own parts: what its base model is made of, and its page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.banking77 import base
from bench.banking77.__main__ import FILES, HERE, RECIPES, base_command
from bench.banking77.report import as_markdown, ratio, verdict
from bench.banking77.stages import Stages
from ftplatform.core.dataset_config import parse_dataset_config
from ftplatform.core.rows import Message, Row
from ftplatform.recipes import read_recipe


def row(question: str, intent: str) -> Row:
    return Row((Message("user", question), Message("assistant", intent)), "train.csv:1")


def facts() -> dict[str, Any]:
    stage = {"name": "data run", "wall_seconds": 9.0, "cpu_seconds": 5.0}
    run = {"steps": 2174.0, "tokens_per_second": 9000.0, "seconds": 210.0, "final_loss": 0.004}
    return {
        "date": "2026-11-22", "machine": "Linux x86_64", "cores": 2, "threads": 1, "load_before": 0.1, "load_after": 1.2,
        "train_rows": 9997, "test_rows": 3080, "removed": {"leak": 6}, "pii": {},
        "base": {"parameters": 688768, "vocabulary": 2048, "steps": 500},
        "exact_match": {"full": 0.87, "lora": 0.5, "tfidf": 0.89, "base": 0.0},
        "gate": {"full": "promote", "lora": "quarantine"},
        "reasons": {"full": ["heldout against base: better"], "lora": ["heldout against champion: worse"]},
        "training": {"full": run, "lora": run}, "stages": [stage],
    }  # fmt: skip


def test_the_base_is_made_from_the_train_rows_and_no_other_file(tmp_path: Path) -> None:
    command = base_command(tmp_path / "train.jsonl", tmp_path / "out", threads=1)
    named = [part for part in command if str(tmp_path) in part or ".csv" in part]
    assert named == [str(tmp_path / "train.jsonl"), str(tmp_path / "out")]


def test_a_word_that_no_train_row_holds_is_no_token_of_the_tokenizer() -> None:
    rows = [row(f"where is my parcel number {i}", "parcel_arrival") for i in range(50)]
    tokenizer = base.make_tokenizer(rows)
    assert len(tokenizer.tokenize("parcel")) == 1
    assert len(tokenizer.tokenize("zebra")) > 1


def test_key_words_are_words_of_the_question_and_never_its_intent() -> None:
    questions = ["where is my parcel today", "where is my refund today", "where did my parcel go today"]
    labels = base.key_words(questions)
    for question, label in zip(questions, labels, strict=True):
        assert set(label.split("_")) <= set(question.split())


def test_a_question_without_a_usable_word_gets_the_label_other() -> None:
    assert base.key_words(["??"]) == ["other"]


def test_the_dataset_settings_name_the_test_file_as_the_test() -> None:
    import yaml

    config = parse_dataset_config(yaml.safe_load((HERE / "dataset.yaml").read_text()))
    assert config.split.test_files == (FILES[1],)


def test_both_recipes_are_valid_and_differ_in_what_they_train() -> None:
    recipes = {name: read_recipe(HERE / f"{key.split('@')[0]}.yaml") for name, key in RECIPES.items()}
    assert {name: str(recipe.key) for name, recipe in recipes.items()} == RECIPES
    assert {name: recipe.parameterisation for name, recipe in recipes.items()} == {"full": "full", "lora": "lora"}


def test_the_page_holds_every_score_with_its_ratio() -> None:
    page = as_markdown(facts())
    assert "| full weights | 87.0% | 2,680 | 0.98 | promote |" in page
    assert "| LoRA | 50.0% | 1,540 | 0.56 | quarantine |" in page
    assert "| TF-IDF + logistic regression | 89.0% | 2,741 | 1.00 |  |" in page


@pytest.mark.parametrize(("score", "word"), [(0.7999, "missed"), (0.80, "reached")])
def test_a_missed_target_is_called_missed(score: float, word: str) -> None:
    assert word in verdict(score)


def test_a_ratio_to_nothing_is_a_dash() -> None:
    assert ratio(0.5, 0.0) == "-"


def test_a_stage_counts_the_cpu_time_of_its_children() -> None:
    import subprocess

    stages = Stages()
    with stages.stage("child"):
        subprocess.run([sys.executable, "-c", "sum(i * i for i in range(3_000_000))"], check=True)
    assert stages.done[0].cpu_seconds > 0.05
