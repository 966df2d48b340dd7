"""JSON text rewritten in place: its strings and numbers change, its layout and validity stay."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import orjson

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')
_COLON = re.compile(r"\s*:")


def is_json(text: str) -> bool:
    """Whether ``text`` is a JSON object or array."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False
    return True


def rewrite_json(text: str, change: Callable[[str, str], str]) -> str:
    """``text``, a JSON object or array, with ``change(value, key)`` in place of every string, key and number.

    ``change`` gets strings unescaped and numbers as written, with the key they stand under (empty for keys); what
    it returns for a number becomes a string. The same object comes back when nothing changed.
    """
    key = ""
    parts: list[str] = []
    end = 0
    for token in _TOKEN.finditer(text):
        written = token[0]
        value = json.loads(written) if written[0] == '"' else written
        is_key = written[0] == '"' and _COLON.match(text, token.end()) is not None
        if is_key:
            key = value
        new = change(value, "" if is_key else key)
        if new != value:
            parts += [text[end : token.start()], json.dumps(new, ensure_ascii=False)]
            end = token.end()
    return "".join([*parts, text[end:]]) if parts else text
