"""The model of a training: loaded offline, made trainable, checked that what was asked for engaged, saved for others to
load.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.recipes.rules import VIRTUAL
from ftplatform.training.adapters import (
    add_adapter,
    check_quantized,
    freeze,
    keep_differentiable,
    keep_pissa_as_lora,
    quantization_config,
)
from ftplatform.training.attention import engage_attention
from ftplatform.training.fused_lora import fuse_lora
from ftplatform.training.stack import BELOW, is_virtual, layers_folder, put_on, take_over
from ftplatform.training.stored import WIDENS, as_stored, stays_stored


def attention_of(folder: Path, auto: Any = AutoModelForCausalLM) -> str:
    """``sdpa``, or ``eager`` for the families whose scores pass through a function that SDPA does not have (Gemma 2's
    soft cap): transformers refuses those with SDPA, by the class that the folder's config names.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    kind = auto._model_mapping.get(type(config), None)
    return "eager" if kind is not None and not getattr(kind, "_supports_sdpa", True) else "sdpa"


def load_base(folder: Path, *, precision: str = "fp32", stored: bool = False, **config: Any) -> Any:
    """A causal model from a local folder: safetensors only, no code from the folder, no network.

    With ``stored`` its weights are in the type of their files, mapped from them, and for somebody to widen: see ``stored``.
    """
    return load_as(AutoModelForCausalLM, folder, precision=precision, stored=stored, **config)


def load_as(auto: Any, folder: Path, *, precision: str = "fp32", stored: bool = False, **config: Any) -> Any:
    """``load_base`` with a head of ``auto``, one of transformers' classes that choose by the folder's config."""
    with as_stored() if stored else nullcontext():
        return auto.from_pretrained(
            folder,
            dtype=torch.bfloat16 if precision == "bf16" and not stored else torch.float32,
            attn_implementation=attention_of(folder, auto),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **config,
        )


def trainable_model(spec: TrainSpec, base: Path, init: Path | None = None) -> Any:
    """The base made ready for ``spec``: an adapter added, or all weights but the frozen ones trainable with attention dropout.

    ``init`` is the folder of ``spec.init_weights``: full weights in place of the base's, an adapter to go on with, or LoRA to lie
    below virtual tokens.

    Raises:
        InvalidConfig: something asked for did not engage; see ``check_engaged``.
    """
    training = spec.training
    if spec.training.precision == "bf16" and not torch.cuda.is_available():
        raise InvalidConfig("precision bf16 was asked for and no CUDA device is here; the plan must say fp32 for a CPU")
    if spec.parameterisation == "full":
        # Weights stay fp32 under bf16 autocast unless asked for: updates smaller than bf16 can hold are lost.
        stored = stays_stored(spec)
        model = load_base(init or base, precision=training.weights, stored=stored, attention_dropout=training.dropout)
        setattr(model, WIDENS, stored)
        freeze(model, training)
        if training.qat != "none":
            _quantize().round_in_training(model, training)
    else:
        quantized = quantization_config(training)
        extra = {"quantization_config": quantized} if quantized else {}
        loaded = load_base(base, precision=training.precision, **extra)
        check_quantized(loaded, training)
        keep_differentiable(loaded)
        if training.qat != "none":
            _quantize().round_in_training(loaded, training)
        if init and spec.parameterisation in VIRTUAL and (below := layers_folder(init)):
            loaded = put_on(loaded, below)[0].get_base_model()
        model = add_adapter(loaded, spec.parameterisation, spec.lora, training)
        if init and (spec.parameterisation not in VIRTUAL or is_virtual(init)):
            take_over(model, init)
    if spec.parameterisation not in VIRTUAL:
        # Documents see each other's virtual tokens only through a mask, which the model has from its loading.
        engage_attention(model, training.precision)
    if spec.parameterisation == "lora":
        fuse_lora(model, spec.strategy)
    check_engaged(model, spec)
    return model


def check_engaged(model: Any, spec: TrainSpec) -> None:
    """Look at the live model for what the spec asks.

    Raises:
        InvalidConfig: no trainable parameter, a LoRA target without a LoRA layer, a dropout, type of weights or rounding other
            than asked for, or virtual tokens that the model would drop.
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
        wanted = torch.bfloat16 if spec.training.weights == "bf16" else torch.float32
        # Weights as stored are widened when they are divided, and looked at then.
        if not stays_stored(spec) and (kinds := {p.dtype for p in model.parameters()} - {wanted}):
            raise InvalidConfig(
                f"weights in {spec.training.weights} were asked for; found are {sorted(map(str, kinds))} too"
            )
    if spec.training.qat != "none":
        _quantize().check_rounding(model, spec.training)
    if spec.parameterisation in VIRTUAL:
        _check_virtual(model, spec)
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


def _check_virtual(model: Any, spec: TrainSpec) -> None:
    config = model.config.get_text_config()
    window, needed = getattr(config, "sliding_window", None), spec.max_length + spec.training.virtual_tokens
    if spec.parameterisation == "prefix" and spec.gradient_checkpointing:
        raise InvalidConfig(
            "a prefix lies in the key-value cache, which transformers drops with activation checkpointing"
        )
    if (
        window
        and "sliding_attention" in (getattr(config, "layer_types", None) or ("sliding_attention",))
        and window < needed
    ):
        raise InvalidConfig(
            f"{spec.training.virtual_tokens} virtual tokens before rows of {spec.max_length} leave the attention window of "
            f"{window} of {type(model.get_base_model()).__name__}: use shorter rows, or lora; a retry does not help"
        )


def _quantize() -> Any:
    """torchao takes a second to import, which trainings without it need not spend."""
    from ftplatform.training import quantize

    return quantize


def save_weights(model: Any, spec: TrainSpec, base: Path, into: Path, init: Path | None = None) -> Path:
    """Write what others load: a PEFT adapter folder, or a whole Hugging Face folder. Equal weights give equal bytes.

    ``init`` is the folder that training started from. LoRA below virtual tokens is copied into the subfolder ``below``.
    """
    if spec.parameterisation != "full":
        # Where this process had the base is nobody's business; its digest is. The vocabulary is never resized here, and
        # peft's own look at the base ("auto") would ask the hub.
        below = layers_folder(init) if init and spec.parameterisation in VIRTUAL else None
        name = f"sha256:{spec.base_weights}" + (f"+below:{spec.init_weights}" if below else "")
        model.peft_config["default"].base_model_name_or_path = name
        model.save_pretrained(into, save_embedding_layers=False)
        (into / "README.md").unlink(missing_ok=True)
        keep_pissa_as_lora(model, into)
        _stable_json(into / "adapter_config.json")
        if below:
            shutil.copytree(below, into / BELOW)
        if spec.training.qat != "none":
            _quantize().record(spec.training, into)
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
    if spec.training.qat != "none":
        _quantize().record(spec.training, into)
    return into


def _stable_json(path: Path) -> None:
    """Sort keys and peft's sets, whose order changes with the process's hash seed and would change the digest."""
    value = json.loads(path.read_text())
    for name in ("target_modules", "modules_to_save", "exclude_modules", "feedforward_modules"):
        if isinstance(value.get(name), list):
            value[name] = sorted(value[name])
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
