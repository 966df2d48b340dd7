"""What follows an attempt that did not make it: pure decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_support import tiny_spec

from ftplatform.assets.attempts import (
    MAX_ATTEMPTS,
    changed_by,
    difference,
    next_attempt,
    over_all,
    resume_ladder,
    smaller,
)
from ftplatform.core.payload import PayloadResult, StarterSpec, StoreAddress, TrainSpec
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.training.best import best_step, no_hope


def made(micro: int, accumulation: int, **fields: object) -> TrainSpec:
    return TrainSpec(
        key="a" * 64, store=StoreAddress(url="file:///s"), base_weights="b", shards={}, max_length=32, method="sft",
        parameterisation="lora", lora=LoraConfig(), training=TrainingConfig(learning_rate=1e-3), micro_batch=micro,
        accumulation=accumulation, steps=3, threads=1,
    ).model_copy(update=fields)  # fmt: skip


def ended(outcome: str) -> PayloadResult:
    return PayloadResult(outcome=outcome, message="it did")  # type: ignore[arg-type]


def test_the_ladder_halves_the_micro_batch_doubles_the_accumulation_and_then_checkpoints_activations() -> None:
    steps, spec = [], made(8, 2)
    while (following := next_attempt(spec, ended("out_of_memory"), 1)) is not None:
        steps.append((following.micro_batch, following.accumulation, following.gradient_checkpointing))
        assert following.key == spec.key, "the checkpoints stay"
        spec = following
    assert steps == [(4, 4, False), (2, 8, False), (1, 16, False), (1, 16, True)]


@given(st.integers(1, 64), st.integers(1, 16))
def test_whatever_the_micro_batch_the_effective_batch_stays_and_the_ladder_ends(micro: int, accumulation: int) -> None:
    spec, share = made(micro, accumulation), micro * accumulation
    for _ in range(20):
        following = smaller(spec)
        if following is None:
            break
        assert following.micro_batch * following.accumulation == share
        assert following.micro_batch <= max(1, spec.micro_batch // 2)
        spec = following
    assert (spec.micro_batch, spec.gradient_checkpointing) == (1, True)


def test_prefix_tuning_has_no_last_step_on_the_ladder() -> None:
    assert smaller(made(1, 8, parameterisation="prefix")) is None


def test_an_attempt_that_brought_the_training_further_is_never_held_against_the_job() -> None:
    spec = made(2, 2)
    for outcome in ("failed", "preempted"):
        assert next_attempt(spec, ended(outcome), 0) == spec
        assert next_attempt(spec, ended(outcome), MAX_ATTEMPTS - 1) == spec
        assert next_attempt(spec, ended(outcome), MAX_ATTEMPTS) is None


@pytest.mark.parametrize("outcome", ["bad_data", "diverged", "fenced", "done"])
def test_what_a_retry_cannot_help_is_not_tried_again(outcome: str) -> None:
    assert next_attempt(made(2, 2), ended(outcome), 0) is None


def test_only_a_training_can_do_with_less_memory() -> None:
    starter = StarterSpec(key="a" * 64, store=StoreAddress(url="file:///s"), seed=0, steps=1, threads=1)
    assert next_attempt(starter, ended("out_of_memory"), 1) is None


def test_the_difference_is_said_and_a_step_that_died_takes_the_ladder_up_where_it_stood() -> None:
    spec = made(4, 2)
    said = difference(spec, smaller(spec) or spec)
    assert said == "the next attempt changes micro_batch 4 -> 2, accumulation 2 -> 4; the effective batch stays"
    assert difference(spec, spec) == ""
    rows = [{"outcome": "out_of_memory"}, {"outcome": "failed"}, {"outcome": "out_of_memory"}]
    assert resume_ladder(spec, rows).micro_batch == 1
    assert changed_by(spec, rows) == {"micro_batch": 1, "accumulation": 8}
    assert changed_by(spec, []) == {}


def test_attempts_add_up_to_lost_steps_and_seconds() -> None:
    def row(began: float, reached: float, start: float, end: float) -> dict:
        return {"numbers": {"resumed_from": began, "steps": reached}, "started_at": start, "finished_at": end}

    rows = [row(0, 57, 100, 160), row(50, 90, 170, 200), row(80, 120, 200, 240)]
    assert over_all(rows) == {"attempts": 3.0, "lost_steps": 17.0, "seconds_in_all": 130.0}
    without_a_step = {"numbers": {}, "started_at": 0, "finished_at": 5}
    assert over_all([without_a_step, *rows])["lost_steps"] == 17.0


def test_the_best_evaluation_is_the_earliest_of_the_lowest_and_patience_counts_from_it() -> None:
    losses = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: float("nan")}
    records = [{"step": float(step)} | ({"eval_loss": losses[step]} if step in losses else {}) for step in range(1, 11)]
    assert best_step(records) == 4
    assert best_step(records[:1]) is None
    assert no_hope(records, 3)
    assert not no_hope(records, 4)
    assert not no_hope(records, 0)
    assert not no_hope(records[:7], 2)
    assert best_step([{"step": 1.0, "eval_reward": 0.2}, {"step": 2.0, "eval_reward": 0.7}]) == 2


def test_choosing_without_evaluations_is_refused(tmp_path: Path) -> None:
    for choice in ({"keep": "best"}, {"patience": 2}):
        with pytest.raises(ValueError, match="evaluate_every"):
            tiny_spec(tmp_path, **choice)
