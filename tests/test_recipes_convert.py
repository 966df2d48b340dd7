"""Files of Axolotl and LLaMA-Factory, as their documentation has them, become recipes; what is left behind is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import ATTENTION_AND_MLP, Recipe, parse_recipe
from ftplatform.recipes.convert import Converted, convert, document

AXOLOTL_COMMON = """
base_model: NousResearch/Meta-Llama-3-8B
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer
strict: false
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
dataset_prepared_path:
val_set_size: 0.05
output_dir: ./outputs/out
sequence_len: 4096
sample_packing: true
pad_to_sequence_len: true
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 2
lr_scheduler: cosine
learning_rate: 2e-4
train_on_inputs: false
group_by_length: false
bf16: auto
fp16:
tf32: false
gradient_checkpointing: true
early_stopping_patience:
logging_steps: 1
flash_attention: true
weight_decay: 0.0
special_tokens:
  pad_token: "<|end_of_text|>"
"""
LORA = "adapter: lora\nlora_r: 32\nlora_alpha: 16\nlora_dropout: 0.05\nlora_target_linear: true\n"
FACTORY_COMMON = """
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
trust_remote_code: true
do_train: true
dataset: identity,alpaca_en_demo
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
output_dir: saves/qwen3-4b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
resume_from_checkpoint: null
"""


def imported(text: str, source: str) -> tuple[Converted, Recipe]:
    found = convert(yaml.safe_load(text), source, "My File")
    return found, parse_recipe(yaml.safe_load(document(found, source, "file.yml")))


def left(found: Converted) -> dict[str, str | None]:
    return {one.key: one.nearest for one in found.left}


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
        "gradient_checkpointing": "ft train (the plan's reasons)",
        "flash_attention": None,
        "tf32": None,
        "output_dir": None,
        "logging_steps": "FTPLATFORM_TRACKING",
    }
    assert any("ft base add meta-llama-3-8b --hub NousResearch/Meta-Llama-3-8B" in note for note in found.notes)
    assert any("multiply by your number of GPUs" in note for note in found.notes)


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


@pytest.mark.parametrize(
    ("rl", "method", "options"),
    [
        ("rl: dpo\nrl_beta: 0.3\n", "dpo", {"loss": "sigmoid", "beta": 0.3}),
        ("rl: ipo\n", "dpo", {"loss": "ipo", "beta": 0.1}),
        ("rl: simpo\nsimpo_gamma: 1.5\nrl_beta: 2.0\n", "dpo", {"loss": "simpo", "gamma": 1.5, "beta": 2.0}),
        ("rl: orpo\norpo_alpha: 0.2\n", "orpo", {"weight": 0.2}),
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
    assert not {"rl", "rl_beta"} & set(left(found))


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
    more = "rl: gdpo\noptimizer: adopt_adamw\nlr_scheduler: rex\nrelora: true\nlora_modules_to_save: [embed_tokens]\ntrain_on_inputs: true\n"
    text = AXOLOTL_COMMON.replace("lr_scheduler: cosine\n", "").replace("train_on_inputs: false\n", "") + LORA + more
    found, recipe = imported(text, "axolotl")
    said = {one.key: (one.value, one.nearest) for one in found.left}
    assert said["rl"] == ("gdpo", "method")
    assert said["optimizer"] == ("adopt_adamw", "training.optimizer")
    assert said["lr_scheduler"] == ("rex", "training.schedule")
    assert said["relora"] == (True, None)
    assert said["lora_modules_to_save"][1] == "lora.target_modules"
    assert said["train_on_inputs"] == (True, "method: cpt")
    assert (recipe.training.optimizer, recipe.training.schedule) == ("adamw", "cosine")
    assert all(one.why for one in found.left)


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


def test_llamafactory_quantization_pissa_and_freezing() -> None:
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
    found, recipe = imported(FACTORY_COMMON + "finetuning_type: freeze\nfreeze_trainable_layers: 8\n", "llamafactory")
    assert recipe.parameterisation == "full"
    assert left(found)["freeze_trainable_layers"] == "training.frozen_layers"
    found, _ = imported(FACTORY_COMMON + "stage: ppo\nreward_model: saves/rm\n", "llamafactory")
    assert left(found)["stage"] == "method: grpo"
    assert "reward_model" in left(found)


def test_a_value_cannot_leave_its_comment() -> None:
    text = 'base_model: m\nlearning_rate: 0.1\nodd: "one\\nname: evil"\n"a\\nb": 3\n'
    found = convert(yaml.safe_load(text), "axolotl", "x")
    said = document(found, "axolotl", "file\nname: worse.yml")
    assert yaml.safe_load(said)["name"] == "x"
    assert "#   odd: one name: evil - this platform has no such setting" in said


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="accepted are axolotl, llamafactory"):
        convert({}, "unsloth", "x")
    with pytest.raises(InvalidConfig, match="found list"):
        convert([], "axolotl", "x")


def test_the_command_writes_a_file_that_can_be_checked(tmp_path: Path) -> None:
    source, out = tmp_path / "lora-8b.yml", tmp_path / "ours.yaml"
    source.write_text(AXOLOTL_COMMON + LORA)
    runner = CliRunner()
    printed = runner.invoke(app, ["recipe", "import", str(source), "--from", "axolotl"])
    assert yaml.safe_load(printed.output)["name"] == "lora-8b"
    written = runner.invoke(
        app, ["recipe", "import", str(source), "--from", "axolotl", "--name", "mine", "--out", str(out)]
    )
    assert "not carried over: 8" in written.output
    assert parse_recipe(yaml.safe_load(out.read_text())).name == "mine"
    assert runner.invoke(app, ["recipe", "check", str(out)]).exit_code == 0
