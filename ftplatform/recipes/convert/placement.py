"""DeepSpeed and FSDP as ``hardware.strategy``."""

from __future__ import annotations

import re
from typing import Any, cast

from ftplatform.core.recipe import Strategy
from ftplatform.core.strategies import strategy_allows
from ftplatform.recipes.convert.reading import Reading

_FIELD = "hardware.strategy"
_FSDP = ("fsdp", "fsdp_config", "fsdp_version")


def strategy(reading: Reading) -> None:
    """Put the strategy that divides the training in the same way; list what has none, or cannot hold this training."""
    sharded, deepspeed = [key for key in _FSDP if reading.has(key)], reading.take("deepspeed")
    reading.meaningless("ddp_timeout")
    if deepspeed and sharded:
        for key in ("deepspeed", *sharded):
            reading.leave(key, "deepspeed and fsdp exclude each other", _FIELD)
    elif deepspeed:
        _put(reading, "deepspeed", *_deepspeed(deepspeed))
    elif sharded:
        key = "fsdp_config" if reading.has("fsdp_config") else sharded[0]
        for one in sharded:
            reading.take(one)
        _put(reading, key, *_fsdp(reading.take("fsdp"), reading.take("fsdp_config", {})))
        if reading.said(_FIELD) and _settings(reading.take("fsdp_config", {})).get("activation_checkpointing"):
            reading.put("training.gradient_checkpointing", True)


def _put(reading: Reading, key: str, wanted: str, why: str) -> None:
    """``why`` says what of it is not the same; without ``wanted`` nothing of it is."""
    refused = wanted and strategy_allows(
        reading.said("method"),
        reading.said("parameterisation"),
        reading.said("training.quantization", "none"),
        cast(Strategy, wanted),
        reading.said("training.optimizer", "adamw"),
    )
    if wanted and not refused:
        reading.put(_FIELD, wanted)
    if refused or why:
        reading.leave(key, refused or why, _FIELD)


def _deepspeed(value: Any) -> tuple[str, str]:
    """By its stage: of the settings themselves, or of the name of a file of them, which is not read."""
    if isinstance(value, dict):
        zero = _mapping(value.get("zero_optimization"))
        stage = str(zero.get("stage", 0))
        parts = (_mapping(zero.get(part)) for part in ("offload_optimizer", "offload_param"))
        host = any(part.get("device") in ("cpu", "nvme") for part in parts)
    else:
        name = str(value).lower().rpartition("/")[2]
        found = re.search(r"z(?:ero)?[_-]?([0-3])", name)
        if not found:
            return "", "the file's name does not say its stage"
        stage, host = found[1], "offload" in name
    if stage == "0":
        return "ddp", ""
    if stage == "1":
        return "", "ZeRO-1 is not offered: zero2 divides the gradients too"
    if host:
        return "offload", "" if stage == "3" else "offload is ZeRO-3, with optimizer states in host memory"
    return f"zero{stage}", ""


def _fsdp(words: Any, config: Any) -> tuple[str, str]:
    settings, listed = _settings(config), " ".join(map(str, words)) if isinstance(words, list) else str(words or "")
    if settings.get("offload_params") or "offload" in listed:
        return "", "fsdp2 keeps its parts on the GPUs: offload has the optimizer states in host memory"
    kind = str(settings.get("sharding_strategy", "FULL_SHARD")).upper()
    if kind not in ("FULL_SHARD", "1") or "grad_op" in listed or settings.get("reshard_after_forward") is False:
        return "", "fsdp2 divides weights too: zero2 divides gradients and optimizer states alone"
    return "fsdp2", ""


def _settings(config: Any) -> dict[str, Any]:
    return {name.removeprefix("fsdp_"): value for name, value in _mapping(config).items()}


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): inner for name, inner in value.items()} if isinstance(value, dict) else {}
