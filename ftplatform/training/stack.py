"""Adapters on a base in order, and starting from one: what a stored adapter folder holds and how it is put on.

A folder is PEFT's. LoRA under virtual tokens lies in its subfolder ``below``: it is put on first, and the virtual tokens were
trained on top of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from ftplatform.core.errors import InvalidConfig
from ftplatform.training.virtual import PREFIX, PROMPT, VirtualTokens, read_virtual

BELOW = "below"
"""Subfolder of an adapter of virtual tokens: the LoRA they stand on."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_virtual(folder: Path) -> bool:
    """Whether a folder's own adapter is virtual tokens."""
    return json.loads((folder / CONFIG).read_text())["peft_type"] in (PREFIX, PROMPT)


def layers_folder(folder: Path) -> Path | None:
    """Where the part of an adapter that changes layers lies; None for virtual tokens on the bare base."""
    if not is_virtual(folder):
        return folder
    return folder / BELOW if (folder / BELOW).is_dir() else None


def put_on(model: Any, folder: Path) -> tuple[Any, VirtualTokens | None]:
    """``model`` with the folder's adapter on, frozen and without dropout, and the virtual tokens to start from.

    Raises:
        InvalidConfig: tensors that find no place in the model, or places that stay empty.
    """
    if layers := layers_folder(folder):
        config = PeftConfig.from_pretrained(str(layers))
        config.inference_mode = True
        if hasattr(config, "lora_dropout"):
            config.lora_dropout = 0.0
        model = PeftModel.from_pretrained(model, str(layers), config=config).eval()
        check_placed(model, layers)
    return model, read_virtual(model, folder) if is_virtual(folder) else None


def take_over(model: Any, folder: Path) -> None:
    """Give a new adapter in ``model`` the values of a stored one of the same shape.

    Raises:
        InvalidConfig: another kind, rank, place or scale.
    """
    stored = load_file(folder / WEIGHTS)
    mine = get_peft_model_state_dict(model, save_embedding_layers=False)
    differ = sorted(name for name in {*stored, *mine} if _shape(stored, name) != _shape(mine, name))
    theirs, ours = json.loads((folder / CONFIG).read_text()), model.peft_config["default"]
    scales = [
        name for name in ("lora_alpha", "use_rslora", "use_dora") if theirs.get(name) != getattr(ours, name, None)
    ]
    if differ or scales:
        first = f"{differ[0]} is {_shape(stored, differ[0])} there and {_shape(mine, differ[0])} here" if differ else ""
        raise InvalidConfig(
            f"training cannot start from this adapter: {first or f'{scales[0]} differs'} ({len(differ)} tensors differ); "
            "accepted is one of the same parameterisation, rank, places and scale. A retry does not help"
        )
    set_peft_model_state_dict(model, stored)
    after = get_peft_model_state_dict(model, save_embedding_layers=False)
    if wrong := [name for name in stored if not torch.equal(after[name].cpu(), stored[name].to(after[name].dtype))]:
        raise InvalidConfig(f"init_from did not engage: {wrong[0]} has not the stored values")


def check_placed(model: Any, folder: Path, name: str = "default") -> None:
    """PEFT only warns of tensors that find no place in the base, and then answers with the bare base.

    Raises:
        InvalidConfig: tensors without a place, or places without a tensor.
    """
    stored = set(load_file(folder / WEIGHTS))
    placed = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    if stored != placed:
        raise InvalidConfig(
            f"the adapter does not fit its base: {len(stored - placed)} of its {len(stored)} tensors have no place, "
            f"{len(placed - stored)} places stay empty; it was trained on another base, a retry does not help"
        )


def _shape(tensors: dict[str, torch.Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None
