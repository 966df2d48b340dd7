"""LLaMA-Factory's YAML (its ``examples/`` and ``src/llamafactory/hparams``; training arguments are transformers')."""

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

_STAGES = {"sft": "sft", "pt": "cpt", "dpo": "dpo", "kto": "kto", "rm": "reward"}
_LOSSES = {"sigmoid": "sigmoid", "ipo": "ipo", "simpo": "simpo"}
_LEFT = {
    ("data are pushed, not named in a recipe", "ft dataset push"): (
        "dataset", "eval_dataset", "dataset_dir", "media_dir", "max_samples", "streaming", "mix_strategy", "interleave_probs",
        "overwrite_cache", "tokenized_path",
    ),
    ("a row stands on one side by its own hash", "dataset.yaml split.validation"): ("val_size",),
    ("the base model's own template renders the rows", "ft base add"): ("template", "enable_thinking", "tool_format"),
    ("the plan decides it from memory", "ft train (the plan's reasons)"): (
        "deepspeed", "fsdp", "fsdp_config", "gradient_checkpointing", "disable_gradient_checkpointing", "per_device_eval_batch_size",
    ),
    ("chosen by what is installed", None): ("flash_attn", "attn", "enable_liger_kernel", "use_unsloth", "torch_compile", "tf32"),
    ("the platform keeps, names and resumes what it makes", None): (
        "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_only_model", "plot_loss",
    ),
    ("MLflow has every step's figures", "FTPLATFORM_TRACKING"): ("report_to", "run_name", "logging_steps", "logging_dir"),
    ("scored once, when it is trained, on suites", "suites"): (
        "eval_strategy", "evaluation_strategy", "eval_steps", "do_eval", "predict_with_generate", "compute_accuracy",
    ),
    ("adapters with trained embeddings cannot be switched in a serving engine", "lora.target_modules"): ("additional_target",),
    ("both matrices have one learning rate", "training.learning_rate"): ("loraplus_lr_ratio", "loraplus_lr_embedding"),
    ("trainings start from a registered base model", "base"): ("adapter_name_or_path", "create_new_adapter"),
    ("the base model's own lengths hold", "training.max_length"): ("rope_scaling",),
    ("the starting model is the reference", None): ("ref_model", "ref_model_adapters"),
    ("no code of a model's repository is run", None): ("trust_remote_code",),
}  # fmt: skip
_WITHOUT_MEANING = (
    "do_train", "preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout", "use_fast_tokenizer", "cache_dir",
    "pissa_iter", "pissa_convert",
)  # fmt: skip


def read(reading: Reading) -> None:
    """Take what a recipe can say; see ``reading.Reading``."""
    base(reading, "model_name_or_path")
    _method(reading)
    _parameterisation(reading)
    batch(reading, "per_device_train_batch_size", "gradient_accumulation_steps", 8)
    reading.carry(
        {
            "learning_rate": "training.learning_rate",
            "num_train_epochs": "training.epochs",
            "max_steps": "training.max_steps",
            "cutoff_len": "training.max_length",
            "weight_decay": "training.weight_decay",
            "max_grad_norm": "training.max_grad_norm",
            "seed": "training.seed",
            "save_total_limit": "training.keep_checkpoints",
            "save_steps": "training.checkpoint_every",
        },
        {"learning_rate": 5e-5, "num_train_epochs": 3.0, "cutoff_len": 2048, "seed": 42},
    )
    warmup(reading, 0.0)
    reading.choose("lr_scheduler_type", "training.schedule", SCHEDULES, "linear")
    reading.choose("optim", "training.optimizer", OPTIMIZERS, "adamw_torch")
    precision(reading)
    reading.agree(
        "packing", True, why="rows are always packed; they do not see each other", nearest="training.max_length"
    )
    reading.agree("neat_packing", True, why="packed rows never see each other here")
    reading.agree("train_on_prompt", False, why="prompts carry no loss here", nearest="method: cpt")
    reading.agree(
        "mask_history",
        False,
        why="a turn is left out of the loss row by row",
        nearest="weight: 0 on a message of the data",
    )
    reading.agree(
        "save_strategy", "steps", why="checkpoints come every so many steps", nearest="training.checkpoint_every"
    )
    reading.agree("pure_bf16", False, why="trained weights stay in fp32 under bf16", nearest="training.precision")
    for key in _WITHOUT_MEANING:
        reading.take(key)
    leave_all(reading, _LEFT)


def _method(reading: Reading) -> None:
    stage, loss = str(reading.take("stage", "sft")), str(reading.take("pref_loss", "sigmoid"))
    if stage not in _STAGES:
        why = "PPO left TRL; grpo and rloo learn from rewards" if stage == "ppo" else f"not one of {', '.join(_STAGES)}"
        reading.leave("stage", why, "method: grpo")
        return
    method = "orpo" if stage == "dpo" and loss == "orpo" else _STAGES[stage]
    reading.put("method", method)
    if method == "dpo":
        if loss in _LOSSES:
            reading.put("dpo.loss", loss)
        else:
            reading.leave("pref_loss", f"not one of {', '.join([*_LOSSES, 'orpo'])}", "dpo.loss")
        reading.carry({"pref_beta": "dpo.beta", "dpo_label_smoothing": "dpo.label_smoothing"}, {"pref_beta": 0.1})
        if loss == "simpo":
            reading.carry({"simpo_gamma": "dpo.gamma"}, {"simpo_gamma": 0.5})
        reading.leave("pref_ftx", "the loss of the chosen answers is not added", "method: orpo")
    elif method == "orpo":
        reading.carry({"pref_beta": "orpo.weight"}, {"pref_beta": 0.1})
    elif method == "kto":
        weights = {"kto_chosen_weight": "kto.desirable_weight", "kto_rejected_weight": "kto.undesirable_weight"}
        reading.carry({"pref_beta": "kto.beta", **weights}, {"pref_beta": 0.1})


def _parameterisation(reading: Reading) -> None:
    kind = str(reading.take("finetuning_type", "lora"))
    if kind in ("full", "freeze"):
        reading.put("parameterisation", "full")
        for key in ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "use_llama_pro"):
            reading.leave(key, "blocks are named by number, and are frozen and not unfrozen", "training.frozen_layers")
        if kind == "freeze":
            reading.leave(
                "finetuning_type", "all weights are trained but the blocks you name", "training.frozen_layers"
            )
        return
    if kind != "lora":
        reading.leave("finetuning_type", "not one of lora, full, freeze; lora holds instead", "parameterisation")
    reading.put("parameterisation", "lora")
    rank = int(reading.take("lora_rank", 8))
    reading.put("lora.rank", rank)
    reading.put("lora.alpha", reading.number("lora_alpha", 2 * rank))
    targets = reading.take("lora_target", "all")
    named = targets if isinstance(targets, list) else [one.strip() for one in str(targets).split(",")]
    reading.put("lora.target_modules", [*ATTENTION_AND_MLP] if named == ["all"] else named)
    reading.carry({"lora_dropout": "lora.dropout", "use_rslora": "lora.use_rslora", "use_dora": "lora.use_dora"})
    if reading.take("pissa_init"):
        reading.put("lora.init_lora_weights", "pissa")
    _quantization(reading)


def _quantization(reading: Reading) -> None:
    bits, method = reading.take("quantization_bit"), str(reading.take("quantization_method", "bnb"))
    if bits is None:
        return
    if method in ("bnb", "bitsandbytes") and bits in (4, 8):
        reading.put("training.quantization", "nf4" if bits == 4 else "int8")
        reading.agree("quantization_type", "nf4", why="fp4 is not offered", nearest="training.quantization")
        reading.agree("double_quantization", True, why="nf4 is always quantized twice", nearest="training.quantization")
    else:
        reading.leave("quantization_bit", "not one of 4 and 8 bits by bitsandbytes", "training.quantization")
        reading.leave("quantization_method", "not bnb", "training.quantization")
