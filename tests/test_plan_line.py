"""The plan of a line chooses as ``ft plan`` does, follows what the recipe pins, and refuses with the nearest plan that works."""

from __future__ import annotations

from typing import Any

import pytest
from plan_configs import CONFIGS

from ftplatform.core.checks import CheckResult
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import parse_recipe
from ftplatform.planning.calibration import Envelope
from ftplatform.planning.choose import Request, choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.job_plan import Inputs, Site, make_plan
from ftplatform.planning.memory import Layout, estimate_memory
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.settings import load_settings

CATALOGUE = load_hardware()
CLUSTER = Site(gpus=("l4", "a100-80", "h100-80"), local=False)
LAPTOP = Site(gpus=("cpu",), local=True)
PAIRS = {"method": "dpo"}


def plan(
    model: str = "llama-2-7b", site: Site = CLUSTER, tokens: int = 1_000_000, measured: Any = None, **recipe: Any
) -> tuple[Plan, dict[str, CheckResult]]:
    training = {"learning_rate": 1e-4, "batch_size": 16, "max_length": 2048, "epochs": 1, **recipe.pop("training", {})}
    shape = ModelShape.from_config(CONFIGS[model])
    base = base_of(shape)
    curated = CuratedDataset(
        dataset="acme/support", splits={}, rows={"train": 5000, "test": 100}, config="c", removed={}, pii={}
    )
    made, checks = make_plan(
        parse_recipe({"name": "mine", "version": 1, "base": "base", "training": training, **recipe}),
        Inputs(curated, base, CONFIGS[model], None, (), tokens),
        CATALOGUE,
        site,
        measured,
    )
    return made, {check.name: check for check in checks}


def base_of(shape: ModelShape) -> BaseModel:
    return BaseModel(
        slug="base", revision="0" * 8, weights="w", replay=None, parameters=shape.parameters,
        architecture=shape.architecture, max_length=shape.max_length, vocabulary=shape.vocabulary,
    )  # fmt: skip


def failed(checks: dict[str, CheckResult]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def test_one_card_is_taken_where_one_is_enough_and_the_sharded_many_where_it_is_not() -> None:
    small, checks = plan()
    assert not failed(checks)
    assert (small.placement.gpus, small.strategy, small.placement.nodes) == (1, "single", 1)
    assert small.micro_batch * small.accumulation * small.placement.gpus == 16
    large, checks = plan("llama-3-70b")
    assert not failed(checks)
    assert (large.strategy, large.placement.nodes) == ("fsdp2", 1)
    assert large.placement.gpus > 1
    assert any("GB" in row["why"] for row in large.rejected), "why each cheaper choice fails"
    assert all(reason.endswith(".") for reason in large.reasons)


def test_the_line_is_planned_as_the_planner_answers_for_the_same_request() -> None:
    made, _ = plan(training={"max_steps": 100})
    request = Request(
        ModelShape.from_config(CONFIGS["llama-2-7b"]), 1e6, 2048, positions=100 * 16 * 2048, batch=16, spot=False,
        setups=(Setup.from_recipe(parse_recipe({
            "name": "a", "version": 1, "base": "base", "training": {"learning_rate": 1e-4}})),), among=CLUSTER.gpus,
        engine="embedded",
    )  # fmt: skip
    option = choose(request, CATALOGUE).option
    assert (made.placement.gpu, made.placement.gpus, made.strategy) == (
        option.gpu,
        option.layout.gpus,
        option.layout.strategy,
    )
    assert (made.micro_batch, made.gradient_checkpointing) == (option.layout.micro_batch, option.layout.checkpointing)
    assert (made.memory_gb, made.hours, made.price) == (option.memory, option.hours, option.price)


def test_what_the_recipe_pins_is_followed() -> None:
    made, checks = plan(
        parameterisation="full",
        hardware={"gpu": "h100-80", "gpus": 8, "strategy": "zero3", "spot": True},
        training={"gradient_checkpointing": True},
    )
    assert not failed(checks)
    assert (made.placement.gpu, made.placement.gpus, made.strategy) == ("h100-80", 8, "zero3")
    assert made.placement.spot
    assert made.gradient_checkpointing
    assert any("as asked for" in reason for reason in made.reasons)
    kept, _ = plan(hardware={"gpu": "h100-80", "gpus": 1}, training={"gradient_checkpointing": False})
    assert not kept.gradient_checkpointing


@pytest.mark.parametrize(
    ("recipe", "check", "why"),
    [
        (
            {"training": {"quantization": "nf4"}, "hardware": {"gpu": "h100-80", "gpus": 8, "strategy": "fsdp2"}},
            "consistent",
            r"quantized weights are not cut.*nearest plan that works with another strategy: qlora.*8 x h100-80, ddp",
        ),
        (
            {"training": {"batch_size": 6}, "hardware": {"gpu": "h100-80", "gpus": 4}},
            "consistent",
            r"a batch of 6 is not a multiple of 4 GPUs.*nearest plan that works on another number of GPUs: .*3 x h100-80",
        ),
        (
            {"hardware": {"gpu": "h100-80", "gpus": 16}},
            "consistent",
            r"do not stand in one node.*at most 1 node.*nearest plan that works on another number of GPUs",
        ),
        (
            {"parameterisation": "full", "hardware": {"gpu": "a100-80", "gpus": 1, "strategy": "single"}},
            "fits_memory",
            r"AdamW in mixed precision takes 107\.8 GB.*nearest plan that works on the same hardware: full with bf16 weights",
        ),
        (
            {"training": {"gradient_checkpointing": False, "max_length": 4096}, "hardware": {"gpu": "l4", "gpus": 1}},
            "fits_memory",
            r"without activation checkpointing, and l4 has 24 GB.*nearest plan that works with activation checkpointing",
        ),
        (
            {"hardware": {"max_price": 0.001}},
            "within_budget",
            r"the budget is 0\.001.*nearest plan .*with more money: lora",
        ),
        (
            {"hardware": {"strategy": "fsdp2"}, "training": {"batch_size": 1}},
            "consistent",
            "no way to place the job.*nearest",
        ),
    ],
)
def test_what_cannot_work_fails_a_check_with_the_nearest_plan(recipe: dict[str, Any], check: str, why: str) -> None:
    _, checks = plan(**recipe)
    assert failed(checks) == {check}
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(checks[check].message)


def test_spot_is_refused_by_name_and_taken_where_it_is_sold_otherwise() -> None:
    catalogue_without = [name for name, entry in CATALOGUE.hardware.items() if entry.price.spot is None]
    for name in catalogue_without[:1]:
        _, checks = plan(hardware={"gpu": name, "gpus": 1, "spot": True})
        assert "consistent" in failed(checks)
    made, checks = plan(hardware={"spot": True})
    assert made.placement.spot
    assert not failed(checks)


def test_several_nodes_are_planned_where_a_job_may_have_them() -> None:
    site = Site(gpus=("h100-80",), local=False, most_nodes=None)
    made, checks = plan("llama-2-70b", site, parameterisation="full", training={"batch_size": 32})
    assert not failed(checks)
    assert (made.placement.gpus, made.placement.nodes, made.strategy) == (32, 4, "fsdp2")


def test_on_this_machine_it_is_one_process_and_another_wish_is_recorded() -> None:
    made, checks = plan("gpt2", LAPTOP, training={"max_length": 128, "batch_size": 4}, lora={"target_modules": ["c_attn"]},
                        hardware={"gpu": "h100-80", "gpus": 8, "strategy": "zero3"})  # fmt: skip
    assert not failed(checks), checks
    assert (made.placement.gpu, made.placement.gpus, made.strategy) == ("cpu", 1, "single")
    assert made.training.precision == "fp32"
    assert "8 x h100-80" in made.reasons[0]
    assert made.rejected == ()


def test_finished_jobs_correct_the_memory_and_narrow_the_duration() -> None:
    hungry = Envelope(jobs=3, memory_ratio=(1.0, 1.6), tokens_per_second=(2000, 2100))
    before, _ = plan(tokens=100_000_000, hardware={"gpu": "l4", "gpus": 1})
    after, checks = plan(
        tokens=100_000_000, hardware={"gpu": "l4", "gpus": 1}, measured=lambda setup, length, gpu: hungry
    )
    assert after.micro_batch < before.micro_batch or "fits_memory" in failed(checks)
    assert after.hours[1] / after.hours[0] < 1.2 < before.hours[1] / before.hours[0]
    assert any("3 finished jobs" in reason for reason in after.reasons)
    assert checks["fits_memory"].numbers["needed_gb"] == pytest.approx(after.memory_gb.total * 1.6, rel=1e-3)


def test_pairs_are_counted_by_rows_and_prompts_with_their_answers() -> None:
    pairs, _ = plan(**PAIRS, training={"batch_size": 8})
    assert pairs.steps == 5000 / 8, "a pair is a row, however short"
    answers = {
        "method": "grpo",
        "grpo": {"rewards": [{"type": "python", "name": "f"}], "group_size": 4, "max_new_tokens": 64},
    }
    grpo, _ = plan(**answers, training={"batch_size": 8, "max_length": 256}, hardware={"gpu": "h100-80", "gpus": 1})
    sft, _ = plan(training={"batch_size": 8, "max_length": 256}, hardware={"gpu": "h100-80", "gpus": 1})
    assert grpo.memory_gb.activations / grpo.micro_batch == pytest.approx(
        4 * sft.memory_gb.activations / sft.micro_batch, rel=0.01
    )


def test_rounding_in_training_and_a_teacher_take_memory_of_their_own() -> None:
    shape = ModelShape.from_config(CONFIGS["llama-3.2-1b"])
    plain, rounded, taught = (
        estimate_memory(shape, setup, Layout(1, 512))
        for setup in (Setup("full"), Setup("full", qat="int4"), Setup("full", method="distillation", teacher=10**9))
    )
    assert rounded.other - plain.other == pytest.approx(8.25 * shape.block_matrices / 1e9 * 1.05, rel=1e-3)
    assert taught.weights - plain.weights == pytest.approx(2.0), "bf16, frozen"


def test_a_prefix_is_never_planned_with_activation_checkpointing() -> None:
    made, checks = plan(
        "llama-2-7b", parameterisation="prefix", training={"max_length": 4096}, hardware={"gpu": "l4", "gpus": 1}
    )
    assert not made.gradient_checkpointing
    assert failed(checks) <= {"fits_memory"}


def test_a_cluster_says_which_entries_auto_may_choose_from() -> None:
    def gpus(**variables: str) -> tuple[str, ...]:
        return load_settings(variables).gpus

    assert gpus() == ("cpu",)
    assert gpus(FTPLATFORM_GPU="l4") == ("l4",)
    assert gpus(FTPLATFORM_GPU="l4", FTPLATFORM_GPUS="l4, a100-80") == ("l4", "a100-80")
    assert gpus(FTPLATFORM_GPUS="all") == ()
    anything, checks = plan(site=Site(gpus=(), local=False))
    assert not failed(checks)
    assert anything.placement.gpu in CATALOGUE.hardware


def test_a_cluster_without_gpus_computes_in_fp32_too() -> None:
    made, checks = plan("gpt2", Site(gpus=("cpu",), local=False), training={"max_length": 128, "batch_size": 4},
                        lora={"target_modules": ["c_attn"]})  # fmt: skip
    assert not failed(checks), checks
    assert (made.placement.gpu, made.training.precision) == ("cpu", "fp32")
