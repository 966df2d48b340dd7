"""LLaMA-Factory's YAML (its ``examples/`` and ``src/llamafactory/hparams``; training arguments are transformers')."""

from __future__ import annotations

from ftplatform.core.recipe import ATTENTION_AND_MLP
from ftplatform.recipes.convert.evaluation import checkpoints, evaluations
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
    targets,
    total_steps,
    weights_in_bf16,
)

GROUPS: tuple[str, ...] = ()
MODEL = "model_name_or_path"
_STAGES = {"sft": "sft", "pt": "cpt", "dpo": "dpo", "kto": "kto", "rm": "reward"}
_LOSSES = ("sigmoid", "ipo", "simpo", "orpo")
_LORA = {"lora_rank": "lora.rank", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout"}
_LORA_FLAGS = {"use_rslora": "lora.use_rslora", "use_dora": "lora.use_dora"}
_REFUSED = {
    "blocks are not added to a model": ("use_llama_pro", "mixture_of_depths"),
    "weights start from the base model, not at random": ("train_from_scratch",),
    "the loss is another one": ("use_dft_loss", "use_asft_loss", "use_eaft_loss"),
}
_LEFT = {
    ("data are pushed, not named in a recipe", "ft dataset push"): (
        "dataset", "eval_dataset", "dataset_dir", "media_dir", "max_samples", "streaming", "mix_strategy", "interleave_probs",
        "overwrite_cache", "tokenized_path",
    ),
    ("a row stands on one side by its own hash", "dataset.yaml split.validation"): ("val_size",),
    ("the base model's own template renders the rows", "ft base add"): (
        "template", "enable_thinking", "tool_format", "default_system", "add_tokens", "add_special_tokens", "resize_vocab",
    ),
    ("a base has one revision, which its registration names", "ft base add"): ("model_revision",),
    ("the plan decides it from memory", "hardware.strategy"): ("per_device_eval_batch_size",),
    ("chosen by what is installed", None): (
        "flash_attn", "attn", "enable_liger_kernel", "use_unsloth", "torch_compile", "tf32", "fp8",
    ),
    ("the platform keeps, names and resumes what it makes", None): (
        "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_only_model", "plot_loss",
    ),
    ("MLflow has every step's figures", "FTPLATFORM_TRACKING"): ("report_to", "run_name", "logging_steps", "logging_dir"),
    ("the result is scored once it is trained", "suites"): ("predict_with_generate", "compute_accuracy"),
    ("adapters with trained embeddings cannot be switched in a serving engine", "lora.target_modules"): ("additional_target",),
    ("all trained weights have one learning rate", "training.learning_rate"): ("loraplus_lr_ratio", "loraplus_lr_embedding"),
    ("a training starts from a base or from a version of the dataset's model", "init_from"): (
        "adapter_name_or_path", "create_new_adapter",
    ),
    ("the base model's own lengths hold", "training.max_length"): ("rope_scaling", "shift_attn"),
    ("the starting model is the reference", "init_from"): ("ref_model", "ref_model_adapters"),
    ("no code of a model's repository is run", None): ("trust_remote_code",),
    ("every trained weight has the same AdamW", "training.optimizer"): (
        "use_badam", "use_galore", "use_apollo", "use_adam_mini", "use_muon",
    ),
    ("no noise is added to embeddings", "lora.dropout"): ("neftune_noise_alpha",),
    ("activations are computed again in one way", "training.gradient_checkpointing"): ("use_unsloth_gc",),
    ("rows come in the order that the seed draws", "training.seed"): ("disable_shuffling",),
}  # fmt: skip


def read(reading: Reading) -> None:
    """Take what a recipe can say; see ``reading.Reading``."""
    base(reading, MODEL)
    reading.refuse_all(_REFUSED)
    if not reading.flag("do_train"):
        reading.refuse_all({"the file trains nothing": ("export_dir", "infer_backend", "do_predict")})
    _method(reading)
    _parameterisation(reading)
    total_steps(reading)
    _batch(reading)
    reading.carry(
        {
            "learning_rate": "training.learning_rate",
            "num_train_epochs": "training.epochs",
            "cutoff_len": "training.max_length",
            "weight_decay": "training.weight_decay",
            "max_grad_norm": "training.max_grad_norm",
            "seed": "training.seed",
        },
        {"learning_rate": 5e-5, "num_train_epochs": 3.0, "cutoff_len": 2048, "seed": 42},
    )
    if reading.said("method") != "cpt":
        reading.note(
            "LLaMA-Factory cuts rows longer than cutoff_len; here they are dropped and counted (training.too_long)."
        )
    schedule(reading, "lr_scheduler_type", "linear", 0.0)
    optimizer(reading, "optim", "adamw_torch")
    _precision(reading)
    checkpoints(reading)
    evaluations(reading, "no", "early_stopping_steps")
    checkpointing(reading)
    if reading.flag("disable_gradient_checkpointing"):
        reading.put("training.gradient_checkpointing", False)
    strategy(reading)
    reading.agree("train_on_prompt", False, why="prompts carry no loss here", nearest="method: cpt")
    reading.agree(
        "mask_history", False, why="a turn is left out of the loss row by row", nearest="ft dataset push, weight: 0 on a message"
    )  # fmt: skip
    reading.meaningless(
        "do_train", "do_eval", "preprocessing_num_workers", "preprocessing_batch_size", "dataloader_num_workers",
        "use_fast_tokenizer", "cache_dir", "pissa_iter", "pissa_convert", "gradient_checkpointing_kwargs", "use_reentrant_gc",
        "low_cpu_mem_usage", "include_num_input_tokens_seen",
    )  # fmt: skip
    reading.leave_all(_LEFT)
    for key in [one for start in ("badam_", "galore_", "apollo_") for one in reading.starting(start)]:
        reading.leave(key, "every trained weight has the same AdamW", "training.optimizer")


def _method(reading: Reading) -> None:
    stage, loss = str(reading.take("stage", "sft")), str(reading.take("pref_loss", "sigmoid"))
    if stage == "ppo":
        reading.refuse(
            "stage", "PPO is not offered: write a recipe with method grpo or rloo, and a reward model as its grader"
        )
        return
    if stage not in _STAGES:
        reading.refuse("stage", f"not one of {', '.join(_STAGES)}")
        return
    if stage != "dpo":
        reading.leave("pref_loss", f"says nothing in the stage {stage}", "dpo.loss")
    method = "orpo" if stage == "dpo" and loss == "orpo" else _STAGES[stage]
    reading.put("method", method)
    if stage == "dpo" and loss not in _LOSSES:
        reading.refuse("pref_loss", f"another loss; accepted are {', '.join(_LOSSES)}")
    elif method == "dpo":
        reading.put("dpo.loss", loss)
        reading.carry({"pref_beta": "dpo.beta", "dpo_label_smoothing": "dpo.label_smoothing"}, {"pref_beta": 0.1})
        if loss == "simpo":
            reading.carry({"simpo_gamma": "dpo.gamma"}, {"simpo_gamma": 0.5})
        reading.agree(
            "pref_ftx", 0, 0.0, why="the likelihood of the chosen answers is not added", nearest="orpo.weight"
        )
        reading.agree("pref_bco_weight", 0, 0.0, why="no classifier is added to the loss", nearest="dpo.loss")
    elif method == "orpo":
        reading.carry({"pref_beta": "orpo.weight"}, {"pref_beta": 0.1})
    elif method == "kto":
        weights = {"kto_chosen_weight": "kto.desirable_weight", "kto_rejected_weight": "kto.undesirable_weight"}
        reading.carry({"pref_beta": "kto.beta", **weights}, {"pref_beta": 0.1})


def _batch(reading: Reading) -> None:
    """Rows are packed in the stage ``pt``, or when the file says so."""
    neat, cpt = reading.flag("neat_packing"), reading.said("method") == "cpt"
    packed = reading.flag("packing", cpt) or neat
    one, times = reading.whole("per_device_train_batch_size", 8), reading.whole("gradient_accumulation_steps", 1)
    batch(reading, one, times, packed)
    if packed != packs(reading):
        why = "pairs and answers are not packed" if packed else "rows are always packed; they do not see each other"
        reading.leave("packing", why, "training.batch_size")
        if neat:
            reading.leave("neat_packing", why, "training.batch_size")
    elif packed and not cpt and not neat:
        reading.note("Packed rows see each other there, without neat_packing: true; here they never do.")


def _parameterisation(reading: Reading) -> None:
    kind = str(reading.take("finetuning_type", "lora"))
    if kind == "freeze":
        reading.refuse(
            "finetuning_type",
            "all but some blocks is frozen, embeddings, last norm and output layer too, which no recipe says; nearest are "
            "parameterisation full with training.frozen_layers and training.frozen_embeddings",
        )
    elif kind == "full":
        reading.put("parameterisation", "full")
        reading.leave(
            "quantization_bit", "LLaMA-Factory refuses it; full weights are not quantized", "parameterisation"
        )
        for key, nearest in (_LORA | _LORA_FLAGS | {"lora_target": "lora.target_modules"}).items():
            reading.leave(key, "says nothing with full weights", nearest)
    elif kind == "lora":
        _lora(reading)
    else:
        reading.refuse("finetuning_type", "not one of lora, full")


def _lora(reading: Reading) -> None:
    reading.put("parameterisation", "lora")
    rank = reading.whole("lora_rank", 8)
    reading.carry(_LORA, {"lora_rank": rank, "lora_alpha": 2 * rank})
    named = reading.take("lora_target", "all")
    named = named if isinstance(named, list) else [one.strip() for one in str(named).split(",")]
    targets(reading, "lora_target", ATTENTION_AND_MLP if named == ["all"] else named)
    reading.carry_flags(_LORA_FLAGS)
    if reading.flag("pissa_init"):
        reading.put("lora.init_lora_weights", "pissa")
    bits, method = reading.whole("quantization_bit"), str(reading.take("quantization_method", "bnb"))
    if bits is None:
        reading.leave("quantization_method", "says nothing without quantization_bit", "training.quantization")
        return
    if method in ("bnb", "bitsandbytes") and bits in (4, 8):
        reading.put("training.quantization", "nf4" if bits == 4 else "int8")
        reading.agree("quantization_type", "nf4", why="fp4 is not offered", nearest="training.quantization")
        reading.agree("double_quantization", True, why="nf4 is always quantized twice", nearest="training.quantization")
    else:
        reading.leave("quantization_bit", "not one of 4 and 8 bits by bitsandbytes", "training.quantization")
        reading.leave("quantization_method", "not bnb", "training.quantization")


def _precision(reading: Reading) -> None:
    pure, half = reading.flag("pure_bf16"), no_fp16(reading, "fp16")
    brain = reading.flag("bf16") or pure or half
    reading.put("training.precision", "bf16" if brain else "fp32")
    if pure:
        weights_in_bf16(reading, "pure_bf16")
    elif not brain and reading.said("parameterisation") == "lora":
        reading.note(
            "Neither bf16 nor fp16: LLaMA-Factory holds the base as its files do, mostly in bf16; training.precision is fp32."
        )
