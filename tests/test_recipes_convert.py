"""Axolotl's files, as their documentation has them, become recipes; what is left behind is listed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from recipes_convert_support import AXOLOTL_COMMON, LORA, axolotl, imported, left, reasons

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import ATTENTION_AND_MLP
from ftplatform.recipes.convert import convert


def test_axolotl_qlora() -> None:
    text = (
        AXOLOTL_COMMON
        + LORA.replace("lora\n", "qlora\n", 1)
        + "load_in_4bit: true\noptimizer: paged_adamw_32bit\nwarmup_steps: 10\n"
    )
    found, recipe = imported(text, "axolotl")
    assert (recipe.name, recipe.base, recipe.method, recipe.parameterisation) == (
        "my-file",
        "meta-llama-3-8b",
        "sft",
        "lora",
    )
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (32, 16, 0.05)
    assert recipe.lora.target_modules == ATTENTION_AND_MLP
    training = recipe.training
    assert (training.quantization, training.optimizer, training.precision) == ("nf4", "paged_adamw_32bit", "bf16")
    assert (training.learning_rate, training.epochs, training.batch_size, training.max_length) == (2e-4, 2, 8, 4096)
    # Axolotl's own defaults, where they differ from ours.
    assert (training.seed, training.schedule) == (42, "cosine")
    assert left(found) == {
        "warmup_steps": "training.warmup_ratio",
        "datasets": "ft dataset push",
        "val_set_size": "dataset.yaml split.validation",
        "special_tokens": "ft base add",
        "flash_attention": None,
        "tf32": None,
        "output_dir": None,
        "logging_steps": "FTPLATFORM_TRACKING",
    }
    assert any("ft base add meta-llama-3-8b --hub NousResearch/Meta-Llama-3-8B" in note for note in found.notes)
    assert any("multiply by your number of GPUs" in note for note in found.notes)
    assert found.without_meaning == ("model_type", "tokenizer_type", "strict", "pad_to_sequence_len")


def test_axolotl_full_weights_with_steps() -> None:
    text = (
        AXOLOTL_COMMON + "optimizer: paged_adamw_8bit\nmax_steps: 400\nwarmup_steps: 20\nsave_steps: 100\nlora_r: 8\n"
    )
    found, recipe = imported(text, "axolotl")
    assert recipe.parameterisation == "full"
    assert (recipe.training.warmup_ratio, recipe.training.max_steps, recipe.training.checkpoint_every) == (
        0.05,
        400,
        100,
    )
    assert "warmup_steps" not in left(found)
    assert left(found)["lora_r"] == "lora.rank"


@pytest.mark.parametrize(
    ("rl", "method", "options"),
    [
        ("rl: dpo\nrl_beta: 0.3\n", "dpo", {"loss": "sigmoid", "beta": 0.3}),
        ("rl: ipo\n", "dpo", {"loss": "ipo", "beta": 0.1}),
        ("rl: simpo\nsimpo_gamma: 1.5\nrl_beta: 2.0\n", "dpo", {"loss": "simpo", "gamma": 1.5, "beta": 2.0}),
        ("rl: orpo\norpo_alpha: 0.2\n", "orpo", {"weight": 0.2}),
        # One key for what TRL calls beta; its ORPO takes the weight of the odds ratio for it.
        ("rl: orpo\nrl_beta: 0.3\n", "orpo", {"weight": 0.3}),
        ("rl: dpo\ntrl: {beta: 0.3}\n", "dpo", {"beta": 0.3}),
        ("rl: dpo\ndpo_loss_type: [ipo]\n", "dpo", {"loss": "ipo"}),
        ("rl: kto\nrl_beta: 0.5\nkto_desirable_weight: 0.2\n", "kto", {"beta": 0.5, "desirable_weight": 0.2}),
        ("reward_model: true\n", "reward", {}),
    ],
)
def test_axolotl_preferences(rl: str, method: str, options: dict[str, Any]) -> None:
    text = AXOLOTL_COMMON.replace("sample_packing: true", "sample_packing: false") + LORA + "load_in_8bit: true\n" + rl
    found, recipe = imported(text, "axolotl")
    assert (recipe.method, recipe.training.quantization) == (method, "int8")
    given = getattr(recipe, method)
    assert {name: getattr(given, name) for name in options} == options
    assert not {"rl", "rl_beta", "orpo_alpha"} & set(left(found))


def test_axolotl_adapters_of_other_kinds() -> None:
    more = "peft_use_rslora: true\npeft_use_dora: true\npeft_layers_to_transform: [0, 1]\n"
    found, recipe = imported(AXOLOTL_COMMON + LORA + more, "axolotl")
    assert (recipe.lora.use_rslora, recipe.lora.use_dora, recipe.lora.layers_to_transform) == (True, True, (0, 1))
    _, recipe = imported(AXOLOTL_COMMON + LORA + "peft_init_lora_weights: pissa_niter_16\n", "axolotl")
    assert recipe.lora.init_lora_weights == "pissa"
    named = AXOLOTL_COMMON + "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_modules: [q_proj, lm_head]\n"
    found, recipe = imported(named, "axolotl")
    assert recipe.lora.target_modules == ("q_proj",)
    assert any("lm_head" in note for note in found.notes)


def test_what_axolotl_has_and_we_have_not_is_listed_with_a_reason() -> None:
    more = (
        "optimizer: adopt_adamw\nlr_scheduler: rex\ncosine_min_lr_ratio: 0.1\nlora_modules_to_save: [embed_tokens]\n"
        "train_on_inputs: true\n"
        "never_heard_of: 7\nadam_beta2: 0.95\n"
    )
    text = AXOLOTL_COMMON.replace("lr_scheduler: cosine\n", "").replace("train_on_inputs: false\n", "") + LORA + more
    found, recipe = imported(text, "axolotl")
    said = {one.key: (one.value, one.nearest) for one in found.left}
    assert said["optimizer"] == ("adopt_adamw", "training.optimizer")
    assert said["lr_scheduler"] == ("rex", "training.schedule")
    assert said["never_heard_of"] == (7, None)
    assert said["adam_beta2"] == (0.95, "training.optimizer")
    assert said["lora_modules_to_save"][1] == "lora.target_modules"
    assert said["train_on_inputs"] == (True, "method: cpt")
    assert (recipe.training.optimizer, recipe.training.schedule) == ("adamw", "cosine")
    assert all(one.why for one in found.left)


def test_what_axolotl_says_twice_is_listed_once_as_what_does_not_count() -> None:
    found, recipe = axolotl("rl: orpo\nrl_beta: 0.2\norpo_alpha: 0.4\n")
    assert (recipe.orpo.weight, reasons(found)["orpo_alpha"]) == (0.2, "rl_beta holds there")
    found, recipe = axolotl("max_steps: 200\nwarmup_steps: 20\nwarmup_ratio: 0.5\n")
    assert (recipe.training.warmup_ratio, reasons(found)["warmup_ratio"]) == (0.1, "warmup_steps wins there")


def test_axolotl_grpo() -> None:
    text = """
rl: grpo
rl_beta: 0.04
trl: {beta: 0.001, num_generations: 4, max_completion_length: 512, temperature: 0.7, scale_rewards: false, loss_type: dr_grpo,
      use_vllm: true, reward_funcs: [rewards.one], num_iterations: 2}
gradient_accumulation_steps: 4
adapter: lora
lora_target_linear: true
"""
    found = convert(yaml.safe_load("base_model: a/b\nmicro_batch_size: 2\nlearning_rate: 1e-5" + text), "axolotl", "x")
    assert found.recipe["grpo"] == {
        "group_size": 4, "max_new_tokens": 512, "temperature": 0.7, "kl": 0.001, "scale_rewards": False, "normalize": "length",
    }  # fmt: skip
    # Theirs counts answers, ours prompts.
    assert found.recipe["training"]["batch_size"] == 2
    assert left(found) == {
        "rl_beta": "grpo.kl", "trl.use_vllm": None, "trl.reward_funcs": "grpo.rewards", "trl.num_iterations": "training.batch_size",
    }  # fmt: skip
    assert ["nothing to reward" in problem for problem in found.problems] == [True]
    with pytest.raises(InvalidConfig, match="2 x 1 answers do not divide into groups of 8"):
        axolotl("rl: grpo\n")


@pytest.mark.parametrize(
    ("text", "precision", "weights"),
    [
        ("", "bf16", "fp32"),  # the schema's default is auto
        ("bf16: auto\n", "bf16", "fp32"),
        ("bf16: false\n", "fp32", "fp32"),
        ("bf16: false\nbfloat16: true\noptimizer: adamw_8bit\n", "bf16", "bf16"),
        ("bfloat16: true\noptimizer: adamw_8bit\n", "bf16", "bf16"),
        ("bfloat16: true\n", "bf16", "fp32"),
        ("bfloat16: true\nadapter: lora\nlora_target_linear: true\n", "bf16", "fp32"),
        ("fp16: true\n", "bf16", "fp32"),
    ],
)
def test_axolotl_precision(text: str, precision: str, weights: str) -> None:
    found, recipe = axolotl(text)
    assert (recipe.training.precision, recipe.training.weights) == (precision, weights)
    assert ("bfloat16" in left(found)) == ("bfloat16" in text and weights == "fp32")
    assert left(found).get("fp16") == ("training.precision" if "fp16" in text else None)


def test_axolotl_batches() -> None:
    found, recipe = axolotl("batch_size: 128\nsample_packing: true\n")
    assert recipe.training.batch_size == 128
    assert not any("packing is off" in note for note in found.notes)
    found, recipe = axolotl("gradient_accumulation_steps: 4\nbatch_size: 128\n")
    assert (recipe.training.batch_size, left(found)["batch_size"]) == (8, "training.batch_size")
    # Rows that are not packed are not what batch_size counts here; pairs are.
    assert any("There it counts rows, because packing is off" in note for note in found.notes)
    found, _ = axolotl("rl: dpo\n")
    assert not any("packing is off" in note for note in found.notes)


def test_evaluations_and_what_goes_by_them() -> None:
    more = "early_stopping_patience: 3\nload_best_model_at_end: true\nmetric_for_best_model: eval_loss\n"
    found, recipe = axolotl("eval_steps: 100\nprofiler_steps: 5\nsave_steps: 200\nsave_total_limit: 3\n" + more)
    training = recipe.training
    assert (training.evaluate_every, training.patience, training.keep) == (100, 3, "best")
    assert (training.profile_steps, training.checkpoint_every, training.keep_checkpoints) == (5, 200, 3)
    assert left(found) == {}
    # Without a number of steps none of it can hold, and all of it is listed with its field.
    found, recipe = axolotl("evals_per_epoch: 4\nsaves_per_epoch: 1\nmetric_for_best_model: accuracy\n" + more[:-33])
    assert (recipe.training.evaluate_every, recipe.training.patience, recipe.training.keep) == (0, 0, "last")
    assert left(found) == {
        "evals_per_epoch": "training.evaluate_every", "saves_per_epoch": "training.checkpoint_every",
        "early_stopping_patience": "training.patience", "load_best_model_at_end": "training.keep",
        "metric_for_best_model": "training.keep",
    }  # fmt: skip
    found, recipe = axolotl("eval_strategy: epoch\nsave_strategy: epoch\n")
    assert left(found) == {"eval_strategy": "training.evaluate_every", "save_strategy": "training.checkpoint_every"}
    assert left(axolotl('eval_strategy: "no"\n')[0]) == {} == left(axolotl("eval_strategy: no\n")[0])


def test_a_share_of_the_steps_needs_their_number() -> None:
    found, _ = axolotl("save_steps: 0.25\neval_steps: 0.1\n")
    assert left(found) == {"save_steps": "training.checkpoint_every", "eval_steps": "training.evaluate_every"}
    found, recipe = axolotl("save_steps: 0.25\neval_steps: 0.1\nmax_steps: 400\n")
    assert (recipe.training.checkpoint_every, recipe.training.evaluate_every, found.left) == (100, 40, ())
    found, recipe = axolotl("eval_strategy: steps\nevals_per_epoch: 5\nnum_epochs: 2\nmax_steps: 400\n")
    assert (recipe.training.evaluate_every, found.left) == (40, ())


@pytest.mark.parametrize("value", [-1, 0])
def test_steps_below_one_leave_the_epochs(value: int) -> None:
    found, recipe = axolotl(f"max_steps: {value}\nnum_epochs: 2\n")
    assert (recipe.training.max_steps, recipe.training.epochs, found.left, found.problems) == (None, 2, (), ())


def test_a_constant_schedule_has_no_warm_up_there() -> None:
    found, recipe = axolotl("lr_scheduler: constant\nwarmup_ratio: 0.1\n")
    assert (recipe.training.schedule, recipe.training.warmup_ratio) == ("constant", 0)
    assert left(found) == {"warmup_ratio": "training.schedule"}
    _, recipe = axolotl("lr_scheduler: constant_with_warmup\nwarmup_ratio: 0.1\n")
    assert (recipe.training.schedule, recipe.training.warmup_ratio) == ("constant", 0.1)


@pytest.mark.parametrize(
    ("text", "strategy", "listed"),
    [
        ("deepspeed: deepspeed_configs/zero2.json\n", "zero2", []),
        ("deepspeed: deepspeed_configs/zero3_bf16.json\n", "zero3", []),
        ("deepspeed: deepspeed_configs/zero3_bf16_cpuoffload_all.json\n", "offload", []),
        ("deepspeed: deepspeed_configs/zero1.json\n", "auto", ["deepspeed"]),
        ("deepspeed: own.json\n", "auto", ["deepspeed"]),
        ("deepspeed: {zero_optimization: {stage: 3, offload_optimizer: {device: cpu}}}\n", "offload", []),
        ("deepspeed: {zero_optimization: {stage: 2, offload_optimizer: {device: none}}}\n", "zero2", []),
        ("deepspeed: zero3.json\noptimizer: adamw_8bit\n", "auto", ["deepspeed"]),
        ("deepspeed: zero3.json\nrl: dpo\n", "auto", ["deepspeed"]),
        (
            "fsdp_version: 2\nfsdp_config: {reshard_after_forward: true, state_dict_type: FULL_STATE_DICT}\n",
            "fsdp2",
            [],
        ),
        ("fsdp: [full_shard, auto_wrap]\nfsdp_config: {fsdp_sharding_strategy: FULL_SHARD}\n", "fsdp2", []),
        ("fsdp_config: {offload_params: true}\n", "auto", ["fsdp_config"]),
        ("fsdp_config: {fsdp_sharding_strategy: SHARD_GRAD_OP}\n", "auto", ["fsdp_config"]),
        ("deepspeed: zero3.json\nfsdp_config: {version: 2}\n", "auto", ["deepspeed", "fsdp_config"]),
    ],
)
def test_how_the_training_is_divided(text: str, strategy: str, listed: list[str]) -> None:
    found, recipe = axolotl(text)
    assert (recipe.hardware.strategy, found.problems) == (strategy, ())
    assert left(found) == dict.fromkeys(listed, "hardware.strategy")


def test_activation_checkpointing_is_the_recipes_own_field() -> None:
    assert axolotl("gradient_checkpointing: true\n")[1].training.gradient_checkpointing is True
    assert axolotl("gradient_checkpointing: false\n")[1].training.gradient_checkpointing is False
    assert axolotl("")[1].training.gradient_checkpointing is None
    found, recipe = axolotl("gradient_checkpointing: offload\n")
    assert recipe.training.gradient_checkpointing is True
    assert left(found) == {"gradient_checkpointing": "training.gradient_checkpointing"}
    assert axolotl("fsdp_config: {activation_checkpointing: true}\n")[1].training.gradient_checkpointing is True


def test_axolotl_adapters_and_quantization() -> None:
    found, recipe = axolotl("adapter: ia3\nload_in_4bit: true\n")
    assert (recipe.parameterisation, recipe.training.quantization, found.left) == ("ia3", "nf4", ())
    found, recipe = axolotl("adapter: qlora\nlora_r: 8\nlora_target_linear: true\n")
    assert recipe.training.quantization == "nf4"
    assert any("without load_in_4bit" in note for note in found.notes)
    found, recipe = axolotl("load_in_8bit: true\nlora_r: 16\n")
    assert (recipe.parameterisation, recipe.training.quantization) == ("full", "none")
    assert left(found) == {"load_in_8bit": "parameterisation", "lora_r": "lora.rank"}
    found, recipe = axolotl("adapter: lora\nlora_target_modules: [q_proj, embed_tokens, lm_head]\n")
    assert recipe.lora.target_modules == ("q_proj",)
    assert any(note.startswith("embed_tokens, lm_head left out") for note in found.notes)


def test_axolotl_training_for_a_quantized_engine() -> None:
    found, recipe = axolotl("qat: {weight_dtype: int4, activation_dtype: int8, group_size: 64}\n")
    assert (recipe.training.qat, recipe.training.qat_group_size, found.left) == ("int8-int4", 64, ())
    assert axolotl("qat: {weight_dtype: int4}\n")[1].training.qat == "int4"
    for other in ("{activation_dtype: int8}", "{weight_dtype: int4, quantize_embedding: true}"):
        assert left(axolotl(f"qat: {other}\n")[0]) == {"qat": "training.qat"}


@pytest.mark.parametrize(
    "text",
    [
        "rl: gdpo\n", "rl: ebft\n", "process_reward_model: true\n", "adapter: llama-adapter\n", "relora: true\n",
        "unfrozen_parameters: [lm_head]\n", "reinit_weights: true\n", "diffusion: {noise_schedule: cosine}\n",
        "rl: dpo\ndpo_loss_type: [hinge]\n", "rl: dpo\ndpo_loss_type: [sigmoid, sft]\n", "trainer_cls: a.B\n",
        "adapter: lora\nlora_target_modules: [lm_head]\n",
    ],
)  # fmt: skip
def test_another_training_never_comes_out_as_a_recipe(text: str) -> None:
    with pytest.raises(InvalidConfig, match="cannot become a recipe"):
        axolotl(text)


def test_simpo_without_the_likelihood_of_the_chosen() -> None:
    assert left(axolotl("rl: simpo\ncpo_alpha: 0.5\n")[0]) == {"cpo_alpha": "orpo.weight"}
    assert any("cpo_alpha is 1.0" in note for note in axolotl("rl: simpo\n")[0].notes)
    found, _ = axolotl("rl: simpo\ncpo_alpha: 0\n")
    assert (found.left, any("cpo_alpha" in note for note in found.notes)) == ((), False)
