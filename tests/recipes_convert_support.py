"""Files of Axolotl and LLaMA-Factory, as their documentation has them, and what was made of them."""

from __future__ import annotations

import yaml

from ftplatform.core.recipe import Recipe, parse_recipe
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


def reasons(found: Converted) -> dict[str, str]:
    return {one.key: one.why for one in found.left}


def axolotl(text: str) -> tuple[Converted, Recipe]:
    return imported(f"base_model: a/b\nmicro_batch_size: 2\nlearning_rate: 1e-4\n{text}", "axolotl")


def factory(text: str) -> tuple[Converted, Recipe]:
    return imported(FACTORY_COMMON + text, "llamafactory")
