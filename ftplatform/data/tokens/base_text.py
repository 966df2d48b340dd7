"""The text side of a base model in the store: its tokenizer, chat template and stop tokens, without its weights."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ftplatform.core.errors import NotFound
from ftplatform.core.payload import StoreAddress
from ftplatform.data.rendering.chat_format import ChatFormat, load_chat_format
from ftplatform.data.tokens.tokenize import RowTokenizer
from ftplatform.store import ObjectStore, open_store

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@dataclass(frozen=True, slots=True)
class BaseText:
    """Where any process on any machine finds the text side of a base model."""

    store: StoreAddress
    weights: str
    """Tree: the model folder. By content, so that what a process has read once stays right."""


def chat_format(store: ObjectStore, weights: str) -> ChatFormat:
    """Tokenizer, template and stop tokens of the model folder ``weights``.

    Raises:
        InvalidConfig: the folder lacks one of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        for file in store.tree(weights).files:
            if file.path in TEXT_FILES:
                (Path(folder) / file.path).write_bytes(store.get_bytes(file.digest))
        return load_chat_format(Path(folder))


def tree_file(store: ObjectStore, weights: str, name: str) -> bytes:
    """One file of a model folder; raises NotFound."""
    return store.get_bytes(tree_digest(store, weights, name))


def tree_digest(store: ObjectStore, weights: str, name: str) -> str:
    """The digest of one file of a model folder; raises NotFound."""
    file = next((file for file in store.tree(weights).files if file.path == name), None)
    if file is None:
        raise NotFound(f"model folder {weights[:12]} has no {name}")
    return file.digest


@lru_cache(maxsize=1)
def open_text(base: BaseText) -> tuple[RowTokenizer, frozenset[int]]:
    """A tokenizer of rows, and the stop tokens: read once per process, because a large tokenizer takes seconds.

    Only the newest is kept: with its words it is 100 MB, and a process works for one base at a time.
    """
    form = chat_format(open_store(base.store), base.weights)
    return RowTokenizer(form.tokenizer, form.template), form.stop_ids
