"""Axolotl's YAML (docs.axolotl.ai, "Config Reference"; defaults from its schemas, 2025)."""

from __future__ import annotations

from ftplatform.core.recipe import ATTENTION_AND_MLP
from ftplatform.recipes.convert.reading import (
    OPTIMIZERS,
    SCHEDULES,
    Reading,
    base,
    batch,
    leave_all,
    precision,
    warmup,
)

_RL = {"dpo": "dpo", "ipo": "dpo", "simpo": "dpo", "orpo": "orpo", "kto": "kto", "grpo": "grpo"}
_LEFT = {
    ("data are pushed, not named in a recipe", "ft dataset push"): ("datasets", "test_datasets", "shuffle_merged_datasets"),
    ("a row stands on one side by its own hash", "dataset.yaml split.validation"): ("val_set_size",),
    ("duplicates are found when data are pushed", "dataset.yaml duplicates"): ("dataset_exact_deduplication",),
    ("the base model's own template renders the rows", "ft base add"): ("chat_template", "chat_template_jinja", "special_tokens", "tokens"),
    ("the plan decides it from memory", "ft train (the plan's reasons)"): (
        "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_offloading", "deepspeed", "fsdp", "fsdp_config",
        "fsdp_version", "eval_batch_size", "lora_on_cpu", "gpu_memory_limit",
    ),
    ("chosen by what is installed", None): (
        "flash_attention", "sdp_attention", "xformers_attention", "flex_attention", "s2_attention", "tf32", "torch_compile",
        "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "plugins", "liger_rope", "liger_rms_norm", "liger_glu_activation",
        "liger_fused_linear_cross_entropy", "cut_cross_entropy",
    ),
    ("the platform keeps, names and resumes what it makes", None): (
        "output_dir", "dataset_prepared_path", "resume_from_checkpoint", "auto_resume_from_checkpoints", "hub_model_id",
        "hub_strategy", "save_safetensors", "save_only_model",
    ),
    ("MLflow has every step's figures", "FTPLATFORM_TRACKING"): (
        "wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "mlflow_experiment_name", "logging_steps",
        "use_tensorboard",
    ),
    ("scored once, when it is trained, on suites", "suites"): (
        "evals_per_epoch", "eval_steps", "eval_strategy", "eval_table_size", "eval_max_new_tokens", "eval_sample_packing",
        "do_bench_eval",
    ),
    ("a diverging loss stops the job by itself", None): ("loss_watchdog_threshold", "loss_watchdog_patience"),
    ("adapters with trained embeddings cannot be switched in a serving engine", "lora.target_modules"): (
        "lora_modules_to_save", "peft_trainable_token_indices",
    ),
    ("blocks are named by number, and are frozen and not unfrozen", "training.frozen_layers"): ("unfrozen_parameters",),
    ("no code of a model's repository is run", None): ("trust_remote_code",),
}  # fmt: skip
_WITHOUT_MEANING = ("model_type", "tokenizer_type", "is_llama_derived_model", "is_mistral_derived_model", "strict", "debug",
                    "local_rank", "remove_unused_columns", "pad_to_sequence_len", "base_model_config", "ddp_timeout")  # fmt: skip


def read(reading: Reading) -> None:
    """Take what a recipe can say; see ``reading.Reading``."""
    base(reading, "base_model")
    _method(reading)
    _adapter(reading)
    batch(reading, "micro_batch_size", "gradient_accumulation_steps", 1)
    reading.carry(
        {
            "learning_rate": "training.learning_rate",
            "num_epochs": "training.epochs",
            "max_steps": "training.max_steps",
            "sequence_len": "training.max_length",
            "weight_decay": "training.weight_decay",
            "max_grad_norm": "training.max_grad_norm",
            "seed": "training.seed",
            "save_total_limit": "training.keep_checkpoints",
        },
        {"num_epochs": 1, "sequence_len": 512, "seed": 42},
    )
    # Axolotl: 3 % of the steps, where nothing else is said.
    warmup(reading, 0.03)
    reading.choose("lr_scheduler", "training.schedule", SCHEDULES, "cosine")
    reading.choose("optimizer", "training.optimizer", OPTIMIZERS, "adamw_torch_fused")
    precision(reading)
    if isinstance(steps := reading.take("save_steps"), int):
        reading.put("training.checkpoint_every", steps)
    reading.leave("saves_per_epoch", "checkpoints come every so many steps", "training.checkpoint_every")
    reading.agree(
        "save_strategy",
        "steps",
        "epoch",
        why="checkpoints come every so many steps",
        nearest="training.checkpoint_every",
    )
    reading.agree("train_on_inputs", False, why="prompts carry no loss here", nearest="method: cpt")
    reading.agree("group_by_length", False, why="rows are packed, so their length does not matter")
    if reading.take("sample_packing", True) is False and not reading.has("rl"):
        reading.leave("sample_packing", "rows are always packed; they do not see each other", "training.max_length")
    for key in _WITHOUT_MEANING:
        reading.take(key)
    leave_all(reading, _LEFT)


def _method(reading: Reading) -> None:
    rl = reading.take("rl")
    if rl in _RL:
        method = _RL[rl]
        reading.put("method", method)
        if rl in ("ipo", "simpo"):
            reading.put("dpo.loss", rl)
        beta = reading.number("rl_beta", reading.number("dpo_beta", {"dpo": 0.1, "kto": 0.1}.get(method)))
        if method in ("dpo", "kto") and beta is not None:
            reading.put(f"{method}.beta", beta)
        own = {
            "orpo": {"orpo_alpha": "orpo.weight"},
            "kto": {"kto_desirable_weight": "kto.desirable_weight", "kto_undesirable_weight": "kto.undesirable_weight"},
            "dpo": {"dpo_label_smoothing": "dpo.label_smoothing", "simpo_gamma": "dpo.gamma"},
        }
        reading.carry(own.get(method, {}))
        reading.leave("trl", "rewards are graders by name, or a trained reward model", f"{method}.rewards")
    elif rl is not None:
        reading.leave("rl", f"not one of {', '.join(sorted(_RL))}", "method")
    elif reading.take("reward_model"):
        reading.put("method", "reward")
    elif reading.has("pretraining_dataset"):
        reading.put("method", "cpt")
        reading.leave("pretraining_dataset", "data are pushed, not named in a recipe", "ft dataset push")
    else:
        reading.put("method", "sft")


def _adapter(reading: Reading) -> None:
    four, eight = bool(reading.take("load_in_4bit")), bool(reading.take("load_in_8bit"))
    adapter = reading.take("adapter")
    if adapter is None:
        reading.put("parameterisation", "full")
        for key in (
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "lora_target_linear",
            "lora_target_modules",
            "lora_fan_in_fan_out",
        ):
            reading.take(key)
        return
    if adapter not in ("lora", "qlora"):
        reading.leave("adapter", "not one of lora, qlora", "parameterisation")
    reading.put("parameterisation", "lora")
    if four or eight:
        reading.put("training.quantization", "nf4" if four else "int8")
    reading.carry({"lora_r": "lora.rank", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout"})
    targets = reading.take("lora_target_modules")
    if reading.take("lora_target_linear"):
        targets = [*ATTENTION_AND_MLP]
    if isinstance(targets, str):
        reading.leave("lora_target_modules", "a pattern; modules are named one by one", "lora.target_modules")
    elif targets:
        # Also for the output layer, which no packed loss can train through an adapter.
        reading.put("lora.target_modules", [one for one in targets if one != "lm_head"])
        if "lm_head" in targets:
            reading.note(
                "lm_head was left out of lora.target_modules: an adapter on the output layer cannot be served."
            )
    reading.carry(
        {
            "peft_use_rslora": "lora.use_rslora",
            "peft_use_dora": "lora.use_dora",
            "peft_layers_to_transform": "lora.layers_to_transform",
        }
    )
    start = reading.take("peft_init_lora_weights", True)
    if str(start).startswith("pissa") or start == "gaussian":
        reading.put("lora.init_lora_weights", str(start).partition("_")[0])
    elif start is not True:
        reading.leave("peft_init_lora_weights", "not one of true, gaussian, pissa", "lora.init_lora_weights")
    reading.agree("lora_fan_in_fan_out", False, why="follows from the architecture")
    reading.leave("lora_model_dir", "trainings start from a registered base model", "base")
    reading.leave("loraplus_lr_ratio", "both matrices have one learning rate", "training.learning_rate")
