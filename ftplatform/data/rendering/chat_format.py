"""What a base model's folder says about text: its tokenizer, chat template and stop tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ftplatform.core.digests import digest_bytes
from ftplatform.core.errors import InvalidConfig
from ftplatform.data.rendering.families import recognise
from ftplatform.data.rendering.render import ChatTemplate
from ftplatform.data.tokens.tokenize import open_tokenizer

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    tokenizer: Tokenizer
    template: ChatTemplate
    stop_ids: frozenset[int]
    """Tokens that end an assistant's turn: the tokenizer's eos and those of the generation config."""
    pad_id: int
    tokenizer_digest: str
    """SHA-256 of tokenizer.json."""
    family: str | None = None
    """Whose template it is (``data/rendering/families.py``); None: a template of its own."""


def load_chat_format(folder: Path) -> ChatFormat:
    """Read ``tokenizer.json``, ``tokenizer_config.json``, ``chat_template.jinja`` and ``generation_config.json``.

    Raises:
        InvalidConfig: a file is missing, or there is no chat template or no stop token; says which.
    """
    if not (folder / "tokenizer.json").is_file():
        raise InvalidConfig(
            f"the base model has no tokenizer.json (found: {_listing(folder)}): save a fast tokenizer with it"
        )
    raw = (folder / "tokenizer.json").read_bytes()
    tokenizer = open_tokenizer(raw)
    config = _read(folder / "tokenizer_config.json")
    special = {name: text for name in _SPECIAL if (text := _text(config.get(name)))}
    jinja = folder / "chat_template.jinja"
    source = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        raise InvalidConfig(
            f"the base model has no chat template (found: {_listing(folder)}): add chat_template.jinja to its folder"
        )
    stop_ids = _ids(_read(folder / "generation_config.json").get("eos_token_id"))
    eos = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    stop_ids |= {eos} if eos is not None else set()
    if not stop_ids:
        raise InvalidConfig(
            "the base model names no eos_token that its tokenizer knows: a model without one never stops"
        )
    pad = tokenizer.token_to_id(special["pad_token"]) if "pad_token" in special else None
    stops = tuple(token for i in sorted(stop_ids) if (token := tokenizer.id_to_token(i)))
    known = recognise(source, special)
    return ChatFormat(
        tokenizer,
        ChatTemplate(source, special, stops, marked=known.source if known else None),
        frozenset(stop_ids),
        pad if pad is not None else min(stop_ids),
        digest_bytes(raw),
        known.name if known else None,
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _text(value: Any) -> str:
    """A special token is written as its text, or as an object with its text under ``content``."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _ids(value: Any) -> set[int]:
    return set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()


def _listing(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
