"""What a stored adapter says of itself, read without the libraries that load it."""

from __future__ import annotations

import json
from typing import Any

from ftplatform.core.errors import InvalidConfig
from ftplatform.store.base import ObjectStore

CONFIG = "adapter_config.json"


def adapter_config(store: ObjectStore, weights: str) -> dict[str, Any] | None:
    """``adapter_config.json`` of the tree ``weights``; None for full weights, which have none.

    Raises:
        NotFound, CorruptObject: the store does not have the bytes.
    """
    for file in store.tree(weights).files:
        if file.path == CONFIG:
            value: dict[str, Any] = json.loads(store.get_bytes(file.digest))
            return value
    return None


def peft_type(store: ObjectStore, weights: str) -> str:
    """``LORA``, ``IA3``, ``PREFIX_TUNING`` or ``PROMPT_TUNING``.

    Raises:
        InvalidConfig: the tree is no adapter.
    """
    config = adapter_config(store, weights)
    if config is None:
        raise InvalidConfig(f"tree {weights[:12]} has no {CONFIG}, so it is no adapter; a retry does not help")
    return str(config["peft_type"])
