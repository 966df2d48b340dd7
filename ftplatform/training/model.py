"""The model of a training: loaded offline, made trainable, checked that what was asked for engaged, saved for others to
load.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.training.adapters import add_adapter, check_quantized, freeze, keep_pissa_as_lora, quantization_config


def load_base(folder: Path, *, precision: str = "fp32", **config: Any) -> Any:
    """A causal model from a local folder: safetensors only, no code from the folder, no network."""
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **config,
    )


def trainable_model(spec: TrainSpec, base: Path) -> Any:
    """The base made ready for ``spec``: an adapter added, or all weights but the frozen ones trainable with attention dropout.

    Raises:
        InvalidConfig: something asked for did not engage; see ``check_engaged``.
    """
    if spec.training.precision == "bf16" and not torch.cuda.is_available():
        raise InvalidConfig("precision bf16 was asked for and no CUDA device is here; the plan must say fp32 for a CPU")
    if spec.parameterisation == "full":
        # Weights stay fp32 under bf16 autocast: updates smaller than bf16 can hold would be lost.
        model = load_base(base, attention_dropout=spec.training.dropout)
        freeze(model, spec.training)
    else:
        quantized = quantization_config(spec.training)
        extra = {"quantization_config": quantized} if quantized else {}
        loaded = load_base(base, precision=spec.training.precision, **extra)
        check_quantized(loaded, spec.training)
        model = add_adapter(loaded, spec.parameterisation, spec.lora, spec.training)
    check_engaged(model, spec)
    return model


def check_engaged(model: Any, spec: TrainSpec) -> None:
    """Look at the live model for what the spec asks.

    Raises:
        InvalidConfig: no trainable parameter, a LoRA target without a LoRA layer, or a dropout other than asked for.
    """
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not trainable:
        raise InvalidConfig(f"no parameter of {type(model).__name__} is trainable")
    if spec.parameterisation == "full":
        asked = bool(spec.training.frozen_layers) or spec.training.frozen_embeddings
        frozen = [] if asked else [name for name, p in model.named_parameters() if not p.requires_grad]
        rates = {m.attention_dropout for m in model.modules() if hasattr(m, "attention_dropout")}
        if frozen:
            raise InvalidConfig(f"full weights were asked for; frozen are {frozen[:3]} and {len(frozen) - 1} more")
        if spec.training.dropout and rates != {spec.training.dropout}:
            raise InvalidConfig(
                f"attention dropout {spec.training.dropout} did not engage on {type(model).__name__}: "
                f"its layers have {rates}"
            )
        return
    if spec.parameterisation != "lora":
        return
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for target in spec.lora.target_modules:
        if not any(name.rpartition(".")[2] == target for name in layers):
            raise InvalidConfig(
                f"LoRA did not engage on {target!r}: the base model has no such layer that LoRA supports"
            )
    for name, layer in layers.items():
        rate = getattr(layer.lora_dropout["default"], "p", 0.0)
        if rate != spec.lora.dropout:
            raise InvalidConfig(f"LoRA dropout {spec.lora.dropout} did not engage on {name}: it has {rate}")


def save_weights(model: Any, spec: TrainSpec, base: Path, into: Path) -> Path:
    """Write what others load: a PEFT adapter folder, or a whole Hugging Face folder. Equal weights give equal bytes."""
    if spec.parameterisation != "full":
        # Where this process had the base is nobody's business; its digest is. The vocabulary is never resized here, and
        # peft's own look at the base ("auto") would ask the hub.
        model.peft_config["default"].base_model_name_or_path = f"sha256:{spec.base_weights}"
        model.save_pretrained(into, save_embedding_layers=False)
        (into / "README.md").unlink(missing_ok=True)
        keep_pissa_as_lora(model, into)
        _stable_json(into / "adapter_config.json")
        return into
    original = json.loads((base / "config.json").read_text())
    model.config.attention_dropout = original.get("attention_dropout", 0.0)
    model.config.use_cache = original.get("use_cache", True)
    model.save_pretrained(into)
    # Tokenizer, chat template and generation settings are the base's own, byte for byte.
    for path in sorted(base.iterdir()):
        weights = path.suffix in (".safetensors", ".bin", ".pt") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name != "config.json":
            shutil.copyfile(path, into / path.name)
    return into


def _stable_json(path: Path) -> None:
    """Sort keys and peft's sets, whose order changes with the process's hash seed and would change the digest."""
    value = json.loads(path.read_text())
    for name in ("target_modules", "modules_to_save", "exclude_modules", "feedforward_modules"):
        if isinstance(value.get(name), list):
            value[name] = sorted(value[name])
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
