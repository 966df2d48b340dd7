"""LLaMA-Factory's files, as its examples have them, become recipes; what is left behind is listed."""

from __future__ import annotations

from typing import Any

import pytest
from recipes_convert_support import FACTORY_COMMON, factory, imported, left

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import ATTENTION_AND_MLP, TrainingConfig
from ftplatform.recipes.convert import document


def test_llamafactory_lora_with_its_defaults() -> None:
    found, recipe = imported(
        FACTORY_COMMON + "stage: sft\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\n", "llamafactory"
    )
    assert (recipe.base, recipe.method, recipe.parameterisation) == ("qwen3-4b-instruct-2507", "sft", "lora")
    # alpha is twice the rank there, unless said.
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.target_modules) == (8, 16, ATTENTION_AND_MLP)
    training = recipe.training
    assert (training.learning_rate, training.epochs, training.batch_size, training.max_length) == (1e-4, 3, 8, 2048)
    assert (training.warmup_ratio, training.schedule, training.checkpoint_every, training.seed) == (
        0.1,
        "cosine",
        500,
        42,
    )
    assert any("cuts rows" in note for note in found.notes)
    assert set(left(found)) == {
        "dataset", "template", "max_samples", "trust_remote_code", "output_dir", "logging_steps", "plot_loss", "report_to",
    }  # fmt: skip
    _, bare = imported("model_name_or_path: ./models/m\n", "llamafactory")
    assert (bare.training.schedule, bare.training.warmup_ratio, bare.training.learning_rate, bare.training.batch_size) == (
        "linear", 0.0, 5e-5, 8,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "method", "options"),
    [
        ("stage: dpo\npref_beta: 0.2\npref_loss: sigmoid\n", "dpo", {"loss": "sigmoid", "beta": 0.2}),
        ("stage: dpo\npref_loss: orpo\n", "orpo", {"weight": 0.1}),
        ("stage: dpo\npref_loss: simpo\npref_beta: 2.0\nsimpo_gamma: 1.0\n", "dpo", {"loss": "simpo", "gamma": 1.0}),
        ("stage: kto\nkto_rejected_weight: 0.5\n", "kto", {"beta": 0.1, "undesirable_weight": 0.5}),
        ("stage: rm\n", "reward", {}),
        ("stage: pt\n", "cpt", None),
    ],
)
def test_llamafactory_stages(more: str, method: str, options: dict[str, Any] | None) -> None:
    _, recipe = imported(FACTORY_COMMON + more, "llamafactory")
    assert recipe.method == method
    if options is not None:
        given = getattr(recipe, method)
        assert {name: getattr(given, name) for name in options} == options


def test_llamafactory_quantization_and_pissa() -> None:
    _, recipe = imported(
        FACTORY_COMMON + "quantization_bit: 4\nquantization_method: bnb\nuse_rslora: true\n", "llamafactory"
    )
    assert (recipe.training.quantization, recipe.lora.use_rslora) == ("nf4", True)
    found, recipe = imported(FACTORY_COMMON + "quantization_bit: 2\nquantization_method: hqq\n", "llamafactory")
    assert recipe.training.quantization == "none"
    assert left(found)["quantization_bit"] == "training.quantization"
    _, recipe = imported(
        FACTORY_COMMON + "pissa_init: true\npissa_iter: 16\nlora_target: q_proj, v_proj\n", "llamafactory"
    )
    assert (recipe.lora.init_lora_weights, recipe.lora.target_modules) == ("pissa", ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stage: ppo\nreward_model: saves/rm\n", "method grpo or rloo"),
        ("finetuning_type: freeze\nfreeze_trainable_layers: 8\n", "training.frozen_layers"),
        ("finetuning_type: oft\n", "not one of lora, full"),
        ("stage: dpo\npref_loss: hinge\n", "another loss"),
        ("use_llama_pro: true\n", "blocks are not added"),
        ("use_dft_loss: true\n", "the loss is another one"),
        ("lora_target: lm_head\n", "output layer alone"),
        ("do_train: false\nexport_dir: merged\n", "the file trains nothing"),
    ],
)
def test_another_training_never_comes_out_as_a_recipe(text: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match=why):
        imported(FACTORY_COMMON.replace("do_train: true\n", "") + text, "llamafactory")


def test_steps_of_warm_up_need_the_number_of_steps() -> None:
    bare = FACTORY_COMMON.replace("warmup_ratio: 0.1\n", "")
    # transformers takes the steps where both are given.
    found, recipe = imported(bare + "warmup_steps: 20\nwarmup_ratio: 0.5\nmax_steps: 200\n", "llamafactory")
    assert (recipe.training.warmup_ratio, left(found)["warmup_ratio"]) == (0.1, "training.warmup_ratio")
    found, recipe = imported(bare + "warmup_steps: 20\nmax_steps: -1\n", "llamafactory")
    assert (recipe.training.warmup_ratio, recipe.training.max_steps) == (
        TrainingConfig(learning_rate=1).warmup_ratio,
        None,
    )
    assert left(found)["warmup_steps"] == "training.warmup_ratio"
    found, recipe = factory("warmup_steps: 0\n")
    assert (recipe.training.warmup_ratio, "warmup_steps" in left(found)) == (0.1, False)


@pytest.mark.parametrize(
    ("text", "weights", "listed"),
    [
        ("finetuning_type: full\noptim: paged_adamw_8bit\n", "bf16", False),
        ("finetuning_type: full\n", "fp32", True),
        ("", "fp32", True),
    ],
)
def test_bf16_without_amp(text: str, weights: str, listed: bool) -> None:
    pure = FACTORY_COMMON.replace("bf16: true\n", "pure_bf16: true\n")
    found, recipe = imported(pure + text, "llamafactory")
    assert (recipe.training.precision, recipe.training.weights) == ("bf16", weights)
    assert (left(found).get("pure_bf16") == "training.weights") == listed
    assert found.problems == ()


def test_rows_that_are_not_packed_are_not_what_a_batch_counts() -> None:
    def said(text: str) -> bool:
        return any("because packing is off" in note for note in factory(text)[0].notes)

    assert [said(text) for text in ("", "packing: false\n", "packing: true\n", "neat_packing: true\n")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [said(text) for text in ("stage: pt\n", "stage: pt\npacking: false\n", "stage: dpo\n")] == [
        False,
        True,
        False,
    ]
    assert any("see each other" in note for note in factory("packing: true\n")[0].notes)


def test_evaluations_while_training() -> None:
    more = "eval_strategy: steps\neval_steps: 500\nload_best_model_at_end: true\nearly_stopping_steps: 2\n"
    found, recipe = factory(more)
    training = recipe.training
    assert (training.evaluate_every, training.keep, training.patience) == (500, "best", 2)
    assert not {"eval_strategy", "eval_steps", "load_best_model_at_end", "early_stopping_steps"} & set(left(found))
    # Without a strategy transformers does not evaluate, whatever the steps are.
    found, recipe = factory("eval_steps: 500\n")
    assert (recipe.training.evaluate_every, left(found)["eval_steps"]) == (0, "training.evaluate_every")
    found, recipe = factory("eval_strategy: steps\nload_best_model_at_end: true\n")
    assert (left(found)["eval_strategy"], left(found)["load_best_model_at_end"]) == (
        "training.evaluate_every", "training.keep",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("ds_z0_config", "ddp"),
        ("ds_z2_config", "zero2"),
        ("ds_z3_config", "zero3"),
        ("ds_z3_offload_config", "offload"),
    ],
)
def test_deepspeed_by_the_name_of_its_file(name: str, strategy: str) -> None:
    found, recipe = factory(f"deepspeed: examples/deepspeed/{name}.json\n")
    assert (recipe.hardware.strategy, "deepspeed" in left(found)) == (strategy, False)


def test_modules_outside_the_blocks_and_of_other_architectures() -> None:
    found, recipe = factory("lora_target: c_attn,lm_head\n")
    assert (recipe.lora.target_modules, found.problems) == (("c_attn",), ())
    assert any(note.startswith("lm_head left out") for note in found.notes)
    found, _ = factory("lora_target: query_key_value\n")
    assert ["no known architecture" in problem for problem in found.problems] == [True]


def test_keys_of_its_own_workings_are_one_line() -> None:
    found, _ = factory("ddp_timeout: 180000000\n")
    assert set(found.without_meaning) == {"do_train", "preprocessing_num_workers", "ddp_timeout"}
    assert "# Without meaning here: ddp_timeout, do_train, preprocessing_num_workers.\n" in document(
        found, "llamafactory", "x"
    )
