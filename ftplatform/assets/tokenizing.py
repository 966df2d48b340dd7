"""The text side of a base model in the store: its chat format, without its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ftplatform.core.errors import NotFound
from ftplatform.data.chat_format import ChatFormat, load_chat_format
from ftplatform.store import ObjectStore

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def chat_format(store: ObjectStore, weights: str) -> ChatFormat:
    """Tokenizer, template and stop tokens of the model folder ``weights``.

    Raises:
        InvalidConfig: the folder lacks one of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        for file in store.tree(weights).files:
            if file.path in TEXT_FILES:
                Path(folder, file.path).write_bytes(store.get_bytes(file.digest))
        return load_chat_format(Path(folder))


def tree_file(store: ObjectStore, weights: str, name: str) -> bytes:
    """One file of a model folder; raises NotFound."""
    file = next((file for file in store.tree(weights).files if file.path == name), None)
    if file is None:
        raise NotFound(f"model folder {weights[:12]} has no {name}")
    return store.get_bytes(file.digest)
