"""Axolotl's YAML (docs.axolotl.ai, "Config Reference"; defaults from ``src/axolotl/utils/schemas``, 2026)."""

from __future__ import annotations

from ftplatform.recipes.convert.axolotl_adapter import adapter, qat
from ftplatform.recipes.convert.axolotl_method import method
from ftplatform.recipes.convert.evaluation import checkpoints, evaluations, profile
from ftplatform.recipes.convert.placement import strategy
from ftplatform.recipes.convert.reading import Reading
from ftplatform.recipes.convert.shared import (
    base,
    batch,
    checkpointing,
    no_fp16,
    optimizer,
    packs,
    schedule,
    total_steps,
    weights_in_bf16,
)

GROUPS = ("trl",)
MODEL = "base_model"
_REFUSED = {
    "weights start from the base model, not at random": ("reinit_weights",),
    "adapters are not merged and started again while they train": ("relora",),
    "the loss is another one": ("use_eaft", "diffusion"),
    "rows keep their positions, and all blocks learn at every step": ("use_pose", "lisa_n_layers"),
    "no code is run that a file names": ("trainer_cls",),
}
_LEFT = {
    ("data are pushed, not named in a recipe", "ft dataset push"): (
        "datasets", "test_datasets", "shuffle_merged_datasets", "pretraining_dataset", "streaming", "roles_to_train",
        "train_on_eos",
    ),
    ("a row stands on one side by its own hash", "dataset.yaml split.validation"): ("val_set_size",),
    ("duplicates are found when data are pushed", "dataset.yaml duplicates"): ("dataset_exact_deduplication",),
    ("the base model's own template renders the rows", "ft base add"): (
        "chat_template", "chat_template_jinja", "chat_template_kwargs", "default_system_message", "special_tokens", "tokens",
        "eot_tokens",
    ),
    ("a base has one revision, which its registration names", "ft base add"): ("revision_of_model", "model_revision"),
    ("the plan decides it from memory", "training.gradient_checkpointing"): ("activation_offloading", "selective_checkpointing"),
    ("the plan decides it from memory", "hardware.strategy"): (
        "eval_batch_size", "lora_on_cpu", "gpu_memory_limit", "max_memory", "context_parallel_size", "sequence_parallel_degree",
        "tensor_parallel_size", "dp_shard_size", "dp_replicate_size", "layer_offloading",
    ),
    ("chosen by what is installed", None): (
        "flash_attention", "sdp_attention", "xformers_attention", "flex_attention", "s2_attention", "attn_implementation", "tf32",
        "torch_compile", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "plugins", "liger_rope", "liger_rms_norm",
        "liger_glu_activation", "liger_fused_linear_cross_entropy", "cut_cross_entropy", "fp8",
    ),
    ("the platform keeps, names and resumes what it makes", None): (
        "output_dir", "dataset_prepared_path", "resume_from_checkpoint", "auto_resume_from_checkpoints", "hub_model_id",
        "hub_strategy", "save_safetensors", "save_only_model", "save_first_step",
    ),
    ("MLflow has every step's figures", "FTPLATFORM_TRACKING"): (
        "wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "mlflow_experiment_name", "logging_steps",
        "use_tensorboard", "use_wandb", "use_mlflow", "use_swanlab",
    ),
    ("the result is scored once it is trained", "suites"): (
        "eval_table_size", "eval_max_new_tokens", "eval_sample_packing", "do_bench_eval", "do_causal_lm_eval",
    ),
    ("a diverging loss stops the job by itself", None): ("loss_watchdog_threshold", "loss_watchdog_patience"),
    ("adapters with trained embeddings cannot be switched in a serving engine", "lora.target_modules"): (
        "lora_modules_to_save", "peft_trainable_token_indices",
    ),
    ("modules are named alike in every block", "lora.target_modules"): (
        "lora_target_parameters", "lora_rank_pattern", "lora_alpha_pattern", "peft_layers_pattern",
    ),
    ("a training starts from a base or from a version of the dataset's model", "init_from"): ("lora_model_dir",),
    ("nf4 is always quantized twice, and computes in the precision", "training.quantization"): ("bnb_config_kwargs", "gptq"),
    ("no code of a model's repository is run", None): ("trust_remote_code",),
    ("schedules end at 0 and are cosine, linear or constant", "training.schedule"): (
        "cosine_min_lr_ratio", "cosine_constant_lr_ratio", "lr_quadratic_warmup",
    ),
    ("all trained weights have one learning rate", "training.learning_rate"): (
        "loraplus_lr_ratio", "loraplus_lr_embedding", "embedding_lr", "embedding_lr_scale", "lr_groups",
    ),
    ("no noise is added to embeddings", "lora.dropout"): ("neftune_noise_alpha",),
}  # fmt: skip


def read(reading: Reading) -> None:
    """Take what a recipe can say; see ``reading.Reading``."""
    base(reading, MODEL)
    reading.refuse_all(_REFUSED)
    method(reading)
    adapter(reading)
    total_steps(reading)
    _batch(reading)
    reading.carry(
        {
            "learning_rate": "training.learning_rate",
            "num_epochs": "training.epochs",
            "sequence_len": "training.max_length",
            "weight_decay": "training.weight_decay",
            "max_grad_norm": "training.max_grad_norm",
            "seed": "training.seed",
        },
        {"num_epochs": 1, "sequence_len": 512, "seed": 42},
    )
    reading.choose("excess_length_strategy", "training.too_long", {"drop": "drop", "raise": "refuse"}, "drop")
    # Axolotl: 3 % of the steps, where nothing else is said.
    schedule(reading, "lr_scheduler", "cosine", 0.03)
    optimizer(reading, "optimizer", "adamw_torch_fused")
    qat(reading)
    _precision(reading)
    checkpoints(reading)
    evaluations(reading, "steps" if reading.has("eval_steps") or reading.has("evals_per_epoch") else "epoch",
                "early_stopping_patience")  # fmt: skip
    profile(reading, "profiler_steps")
    checkpointing(reading)
    strategy(reading)
    reading.agree("train_on_inputs", False, why="prompts carry no loss here", nearest="method: cpt")
    reading.agree("group_by_length", False, why="rows are packed, so their length does not matter")
    reading.meaningless(
        "model_type", "type_of_model", "tokenizer_type", "tokenizer_config", "base_model_config", "is_llama_derived_model",
        "is_mistral_derived_model", "strict", "debug", "local_rank", "remove_unused_columns", "pad_to_sequence_len",
        "gradient_checkpointing_kwargs", "lora_fan_in_fan_out", "dataset_processes", "dataset_num_proc", "dataloader_num_workers",
        "low_cpu_mem_usage",
    )  # fmt: skip
    reading.leave_all(_LEFT)


def _batch(reading: Reading) -> None:
    one, times = reading.whole("micro_batch_size", 1), reading.whole("gradient_accumulation_steps")
    whole, packed = reading.whole("batch_size"), reading.flag("sample_packing")
    if whole and times:
        reading.leave("batch_size", "gradient_accumulation_steps says it already", "training.batch_size")
    elif whole:
        times = max(whole // max(one, 1), 1)
    times = times or 1
    if packed != packs(reading):
        why = "pairs and prompts are not packed" if packed else "rows are always packed; they do not see each other"
        reading.leave("sample_packing", why, "training.batch_size")
    if reading.said("method") != "grpo":
        batch(reading, one, times, packed)
        return
    group = max(int(reading.said("grpo.group_size", 8)), 1)
    if one * times % group:
        reading.refuse("micro_batch_size", f"{one} x {times} answers do not divide into groups of {group}")
        return
    reading.put("training.batch_size", one * times // group)
    reading.note(
        f"training.batch_size is {one} x {times} answers / {group} per prompt, for one GPU: multiply by your number of GPUs."
    )


def _precision(reading: Reading) -> None:
    """``bf16`` is ``auto`` where the file says nothing; bf16 full weights are held in bf16 unless they are sharded."""
    pure = reading.flag("bfloat16")
    off = reading.one_of("bf16", "true", "false", "auto", "full", default="auto") == "false"
    half = no_fp16(reading, "fp16", "float16")
    reading.put("training.precision", "fp32" if off and not pure and not half else "bf16")
    fp32 = reading.said("training.precision") == "fp32"
    reading.agree("float32", fp32, False, why="bf16 says otherwise", nearest="training.precision")
    if pure:
        weights_in_bf16(reading, "bfloat16")
    elif reading.said("parameterisation") == "full" and reading.said("training.precision") == "bf16":
        reading.note(
            "Axolotl holds full weights in bf16 on one GPU and with DDP; here they are fp32, unless training.weights says bf16."
        )
