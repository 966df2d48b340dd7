"""Several LoRA adapters of one base made into one, from their folders alone.

What is merged are the changes of the weights, W_i = scale B_i A_i. PEFT's own ``linear``, ``ties`` and ``dare`` merge A and B
each by themselves, which is something else (a sum of A times a sum of B has every cross product), and keep an rsLoRA scale
that the merged rank changes; so its functions for task vectors are used here, and not its method.

* ``linear``: sum of w_i W_i, exactly, by putting ranks side by side;
* ``ties``: the largest ``density`` of each, then the majority's sign (Yadav et al. 2023, arXiv:2306.01708);
* ``dare``: a random ``density`` of each, scaled up by 1 / density, then the sum (Yu et al. 2023, arXiv:2311.03099);
* ``dare-ties``: DARE's choice with TIES' signs.

The last three are no product of small matrices any more: their best approximation of ``rank`` is kept (Eckart and Young 1936).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, ties
from safetensors.torch import load_file, save_file

from ftplatform.core.errors import InvalidConfig
from ftplatform.training.stack import CONFIG, WEIGHTS

METHODS = ("linear", "ties", "dare", "dare-ties")
RECORD = "merge.json"
_SAME = ("base_model_name_or_path", "layers_to_transform", "exclude_modules", "task_type")
_REFUSED = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias", "trainable_token_indices")

Factors = tuple[torch.Tensor, torch.Tensor]
"""A [rank, inputs] and B [outputs, rank], the scale in A."""


def merge_adapters(
    folders: Sequence[Path],
    weights: Sequence[float],
    into: Path,
    *,
    method: str = "linear",
    density: float = 0.5,
    rank: int | None = None,
    seed: int = 17,
) -> dict[str, Any]:
    """Write the merged adapter to ``into``, a PEFT folder of plain LoRA with alpha = rank; return its record, which lies in
    ``merge.json``: ``{"method", "weights", "density", "seed", "rank", "kept"}``. ``kept`` is 1 - |W - B A| / |W| over all layers
    (Frobenius). Without ``rank`` it is the sum of the adapters' ranks.

    Raises:
        InvalidConfig: no such method, adapters of different bases or places, or of a kind that cannot be merged.
    """
    if method not in METHODS or len(folders) < 2 or len(weights) != len(folders) or not 0 < density <= 1:
        raise InvalidConfig(
            f"merge of {len(folders)} adapters with {len(weights)} weights, method {method!r}, density {density:g}: accepted are "
            f"two adapters or more, a weight for each, {', '.join(METHODS)}, and a density in (0, 1]"
        )
    configs = [_config(folder) for folder in folders]
    for name in _SAME:
        if len({json.dumps(one.get(name)) for one in configs}) > 1:
            found = [one.get(name) for one in configs]
            raise InvalidConfig(
                f"adapters cannot be merged: {name} differs, found {found}; accepted are adapters of one base"
            )
    factors = [_factors(folder, config) for folder, config in zip(folders, configs, strict=True)]
    modules = sorted(set().union(*factors))
    wanted = rank or sum(int(config["r"]) for config in configs)
    # The signs' majority gives a mean over the adapters that agree: weights that sum to 1 would divide a second time.
    given = [weight * len(folders) for weight in weights] if method.endswith("ties") else weights
    merged, lost, whole = {}, 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in modules:
            present = [(one[module], weight) for one, weight in zip(factors, given, strict=True) if module in one]
            pair, error, size = _merged(present, method, density, wanted)
            merged[f"{module}.lora_A.weight"], merged[f"{module}.lora_B.weight"] = pair
            lost, whole = lost + error, whole + size
    record = {
        "method": method,
        "weights": list(weights),
        "density": None if method == "linear" else density,
        "seed": seed if method.startswith("dare") else None,
        "rank": wanted,
        "kept": round(1 - math.sqrt(lost / whole), 6) if whole else 1.0,
    }
    config = configs[0] | {
        "r": wanted,
        "lora_alpha": wanted,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "target_modules": sorted({name for one in configs for name in one["target_modules"]}),
    }
    into.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in merged.items()}, into / WEIGHTS, metadata={"format": "pt"})
    (into / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (into / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return record


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    strange = [name for name in _REFUSED if config.get(name)]
    if config.get("peft_type") != "LORA" or strange or config.get("bias", "none") != "none":
        raise InvalidConfig(
            f"{folder.name} cannot be merged: found {config.get('peft_type', 'no adapter')}"
            f"{' with ' + ', '.join(strange) if strange else ''}; accepted is plain LoRA. A retry does not help"
        )
    return config


def _factors(folder: Path, config: dict[str, Any]) -> dict[str, Factors]:
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = load_file(folder / WEIGHTS)
    names = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    if len(tensors) != 2 * len(names):
        raise InvalidConfig(f"{folder.name} cannot be merged: it holds more than LoRA's A and B of linear layers")
    return {
        name: (tensors[f"{name}.lora_A.weight"].float() * scale, tensors[f"{name}.lora_B.weight"].float())
        for name in names
    }


def _merged(
    present: list[tuple[Factors, float]], method: str, density: float, rank: int
) -> tuple[Factors, float, float]:
    """The merged factors of a layer, the squared size of what they lack, and that of what they stand for."""
    if method == "linear":
        a = torch.cat([weight * pair[0] for pair, weight in present])
        b = torch.cat([pair[1] for pair, _ in present], 1)
        if len(a) <= rank:
            # A layer that not every adapter has is filled up to the rank that the config says.
            free = rank - len(a)
            return (torch.nn.functional.pad(a, (0, 0, 0, free)), torch.nn.functional.pad(b, (0, free))), 0.0, 0.0
        change = b @ a
    else:
        changes = [pair[1] @ pair[0] for pair, _ in present]
        given = torch.tensor([weight for _, weight in present])
        # An adapter that leaves a layer alone has no sign there, and weighs nothing.
        merge = {"ties": ties, "dare": dare_linear, "dare-ties": dare_ties}[method]
        change = merge(changes, given, density)
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    kept = min(rank, len(s))
    a, b = v[:kept], u[:, :kept] * s[:kept]
    lost = float((s[kept:] ** 2).sum())
    return (
        (torch.nn.functional.pad(a, (0, 0, 0, rank - kept)), torch.nn.functional.pad(b, (0, rank - kept))),
        lost,
        float((s**2).sum()),
    )
