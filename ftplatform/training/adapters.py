"""What a parameterisation trains: PEFT's configuration, the frozen base's quantization, frozen blocks, and how PiSSA is kept.

Each function takes the recipe's own groups, so that every method builds its model in the same way.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import Linear, LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from ftplatform.core import recipe
from ftplatform.core.errors import InvalidConfig
from ftplatform.training.virtual import VirtualTokenModel

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "paged_adamw_32bit": "paged_adamw_32bit",
}
"""A recipe's ``training.optimizer`` -> ``optim`` of transformers' ``TrainingArguments``."""
PISSA_SILENCE = 6 * 3600.0
"""Seconds PiSSA may take without a sign of life: the singular vectors of a 7 B base take over an hour on one thread."""
_IA3_TARGETS = ("k_proj", "v_proj", "down_proj")
"""Keys, values and the inner feed-forward activations, as in the paper (arXiv:2205.05638, section 3.3)."""
_BLOCK = re.compile(r"\.layers\.(\d+)\.")


def peft_config(parameterisation: str, lora: recipe.LoraConfig, training: recipe.TrainingConfig) -> PeftConfig:
    """PEFT's configuration of an adapter.

    Raises:
        InvalidConfig: full weights have no adapter.
    """
    if parameterisation == "lora":
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            exclude_modules=list(lora.exclude_modules) or None,
            layers_to_transform=list(lora.layers_to_transform) or None,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            init_lora_weights=True if lora.init_lora_weights == "default" else lora.init_lora_weights,
            task_type="CAUSAL_LM",
        )
    if parameterisation == "ia3":
        return IA3Config(target_modules=list(_IA3_TARGETS), feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    if parameterisation == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=training.virtual_tokens, task_type="CAUSAL_LM")
    if parameterisation == "prompt":
        # Starting from real embeddings: random ones are several times their norm, and learn far slower (arXiv:2104.08691).
        return PromptTuningConfig(
            num_virtual_tokens=training.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"
        )
    raise InvalidConfig(f"parameterisation {parameterisation!r} has no adapter: accepted are lora, ia3, prefix, prompt")


def quantization_config(training: recipe.TrainingConfig) -> BitsAndBytesConfig | None:
    """``quantization_config`` for ``from_pretrained``; None without quantization.

    Computation is in bf16, or in fp32 where the training is.
    """
    if training.quantization == "none":
        return None
    if training.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if training.precision == "bf16" else torch.float32,
    )


def keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes from packing nf4 weights for inference.

    On a CPU with AVX512-BF16 the first forward pass in eval mode (a reference, an answer, an evaluation) packs them for good, and
    the packed product has no gradient: training would go on without one, and without a word.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False


def check_quantized(model: Any, training: recipe.TrainingConfig) -> None:
    """Look at the live layers for the quantization that was asked for.

    Raises:
        InvalidConfig: no layer of the kind, or one without nf4 and double quantization.
    """
    if training.quantization == "none":
        return
    kind = "Linear4bit" if training.quantization == "nf4" else "Linear8bitLt"
    layers = [module for module in model.modules() if type(module).__name__ == kind]
    if not layers:
        raise InvalidConfig(
            f"quantization {training.quantization} did not engage: {type(model).__name__} has no {kind}"
        )
    if kind == "Linear4bit":
        states = [layer.weight.quant_state for layer in layers]
        if any(state is None or state.quant_type != "nf4" or not state.nested for state in states):
            raise InvalidConfig("nf4 with double quantization did not engage on every layer")


def add_adapter(model: Any, parameterisation: str, lora: recipe.LoraConfig, training: recipe.TrainingConfig) -> Any:
    """``model`` with a new adapter, the only trainable part, verified on the live layers.

    Raises:
        InvalidConfig: the model has no such modules or blocks, or something asked for did not engage.
    """
    config = peft_config(parameterisation, lora, training)
    pissa = parameterisation == "lora" and lora.init_lora_weights == "pissa"
    if pissa:
        config.init_lora_weights = False
    try:
        virtual = parameterisation in ("prefix", "prompt")
        adapted = VirtualTokenModel(model, config) if virtual else get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise InvalidConfig(f"{parameterisation} is not possible on {type(model).__name__}: {error}") from error
    if parameterisation == "lora":
        _check_lora(adapted, lora)
    if parameterisation == "ia3" and not any(isinstance(module, IA3Layer) for module in adapted.modules()):
        raise InvalidConfig(f"ia3 did not engage on {type(model).__name__}: it has none of {', '.join(_IA3_TARGETS)}")
    if pissa:
        config.init_lora_weights = "pissa"
        start_from_principal_part(adapted)
        initial = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        adapted.pissa_initial = {name: tensor.detach().cpu().clone() for name, tensor in initial.items()}
    return adapted


def start_from_principal_part(model: Any) -> None:
    """PiSSA's start (arXiv:2404.02948, section 3) for every LoRA layer of ``model``, in place, a layer at a time.

    PEFT computes singular vectors where the weight lies, which is the host until the training begins: seconds on a GPU,
    minutes on one thread. A layer goes to the GPU and comes back, so that it takes a layer's memory there. Done after PEFT
    has made A and B fp32, which it would round to a bf16 base's type otherwise.

    Raises:
        InvalidConfig: a layer that is not linear.
    """
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            if not isinstance(layer, Linear):
                raise InvalidConfig(
                    f"pissa is for linear layers, found is a {type(layer).__name__}: use default or gaussian"
                )
            home = layer.get_base_layer().weight.device
            layer.to(device)
            layer.pissa_init("default", "pissa")
            layer.to(home)


def keep_pissa_as_lora(model: Any, folder: Path) -> None:
    """Rewrite the saved adapter in ``folder`` so that it stands on the untouched base; nothing to do without PiSSA.

    PiSSA trains A B on the residual W - A0 B0, so the change of W is A B - A0 B0: a plain LoRA of twice the rank
    (arXiv:2404.02948, appendix C). Loaded as it is, the adapter would need the residual computed again by every engine.
    """
    initial = getattr(model, "pissa_initial", None)
    if initial is None:
        return
    weights = folder / "adapter_model.safetensors"
    trained, doubled = load_file(weights), {}
    for name, tensor in trained.items():
        start = initial[name].to(tensor.dtype)
        doubled[name] = torch.cat([tensor, start]) if ".lora_A." in name else torch.cat([tensor, -start], dim=1)
    save_file({name: tensor.contiguous() for name, tensor in doubled.items()}, weights, metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # The scale must stay alpha / r, or alpha / sqrt(r) with rsLoRA.
    config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    config["r"] *= 2
    config["init_lora_weights"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def freeze(model: Any, training: recipe.TrainingConfig) -> None:
    """Make all weights of ``model`` trainable but the recipe's frozen blocks and embeddings.

    Raises:
        InvalidConfig: a block the model does not have, or nothing left to train.
    """
    model.requires_grad_(True)
    blocks = {int(found[1]) for name, _ in model.named_parameters() if (found := _BLOCK.search(f".{name}"))}
    if missing := set(training.frozen_layers) - blocks:
        raise InvalidConfig(f"frozen_layers {sorted(missing)}: the model has blocks 0 to {max(blocks, default=-1)}")
    for name, parameter in model.named_parameters():
        found = _BLOCK.search(f".{name}")
        if found and int(found[1]) in training.frozen_layers:
            parameter.requires_grad_(False)
    if training.frozen_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidConfig("frozen_layers and frozen_embeddings leave no weight to train")


def _check_lora(model: Any, lora: recipe.LoraConfig) -> None:
    """PEFT takes a list of blocks or a scale it cannot follow without a word; so the layers themselves are asked."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    blocks = {int(found[1]) for name in layers if (found := _BLOCK.search(name))}
    if lora.layers_to_transform and blocks != set(lora.layers_to_transform):
        raise InvalidConfig(
            f"layers_to_transform {list(lora.layers_to_transform)} did not engage: adapters are in blocks {sorted(blocks)}"
        )
    scale = lora.alpha / (math.sqrt(lora.rank) if lora.use_rslora else lora.rank)
    for name, layer in layers.items():
        if not math.isclose(layer.scaling["default"], scale):
            raise InvalidConfig(
                f"a LoRA scale of {scale:g} did not engage on {name}: it has {layer.scaling['default']:g}"
            )
        if lora.use_dora and "default" not in layer.lora_magnitude_vector:
            raise InvalidConfig(f"DoRA did not engage on {name}: it has no magnitude")
    for excluded in lora.exclude_modules:
        if any(name == excluded or name.endswith(f".{excluded}") for name in layers):
            raise InvalidConfig(f"exclude_modules did not engage on {excluded!r}")
