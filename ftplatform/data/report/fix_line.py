"""Repairs of one JSON line that need no guess about what was meant."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from ftplatform.core.rows import ROLES

OTHER_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
"""What other tools call the roles of ``messages``."""
_ANSWERS = {"assistant", *(name for name, role in OTHER_ROLES.items() if role == "assistant")}
# Strings are matched whole, so that a comma inside one is left alone.
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')


def fix_line(text: str) -> tuple[str | None, tuple[str, ...]]:
    """One line of JSONL and its break -> the repaired line (``None``: leave it out) and the names of the fixes.

    A line that needs none comes back as the same object.
    """
    if not text.strip():
        return None, ("empty_row",)
    body = text.strip()
    ending = text[len(text.rstrip()) :]
    fixes: list[str] = []
    value = _parse(body)
    if value is _INVALID:
        body = _TRAILING_COMMA.sub(lambda m: m[1] or "", body.removesuffix(","))
        if (value := _parse(body)) is _INVALID:
            return text, ()
        fixes.append("trailing_comma")
    if not _has_text(value):
        return None, ("empty_row",)
    if not isinstance(value, dict) or not (found := _fix_value(value)):
        return (body + ending, tuple(fixes)) if fixes else (text, ())
    try:
        # Once more with a parser that keeps whole numbers of any size and sees a key that stands there twice.
        value = json.loads(body, object_pairs_hook=_object)
    except ValueError:
        return (body + ending, tuple(fixes)) if fixes else (text, ())
    style = _style(value, body)
    _fix_value(value)
    return json.dumps(value, **style) + ending, (*fixes, *found)


_INVALID = object()


def _parse(body: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _INVALID


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands there twice: which one is meant cannot be known")
    return value


def _has_text(value: Any, key: str = "") -> bool:
    """Whether any string but the name of a role holds something; a depth of a thousand is orjson's own limit."""
    if isinstance(value, str):
        return key not in ("role", "from") and bool(value.strip())
    if isinstance(value, dict):
        return any(_has_text(part, name) for name, part in value.items())
    if isinstance(value, list):
        return any(_has_text(part, key) for part in value)
    return False


def _fix_value(value: dict[str, Any]) -> list[str]:
    """Repair an example in place; the names of the fixes."""
    fixes: list[str] = []
    for name, role_key in (("messages", "role"), ("conversations", "from")):
        turns = value.get(name)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            continue
        # Sharegpt's own names of the roles are right where they are.
        if name == "messages":
            fixes += [fix for turn in turns for fix in _fix_turn(turn)]
        answers = [i for i, turn in enumerate(turns) if turn.get(role_key) in _ANSWERS]
        end = answers[-1] + 1 if answers else len(turns)
        if end < len(turns) and _has_text(turns[:end]):
            del turns[end:]
            fixes.append("trailing_turns")
    return sorted(set(fixes))


def _fix_turn(turn: dict[str, Any]) -> list[str]:
    fixes = []
    role = turn.get("role")
    if isinstance(role, str) and role not in ROLES:
        name = role.strip().lower()
        if (new := name if name in ROLES else OTHER_ROLES.get(name)) is not None:
            turn["role"] = new
            fixes.append("role_name")
    weight = turn.get("weight")
    if (isinstance(weight, bool | float) and weight in (0, 1)) or weight in ("0", "1"):
        turn["weight"] = int(weight)
        fixes.append("weight_number")
    return fixes


def _style(value: Any, body: str) -> dict[str, Any]:
    """How the customer's own tool wrote the line, as arguments of ``json.dumps``: the diff then shows only the fix."""
    for ascii_only in (False, True):
        for separators in ((", ", ": "), (",", ":")):
            style: dict[str, Any] = {"ensure_ascii": ascii_only, "separators": separators}
            if json.dumps(value, **style) == body:
                return style
    return {"ensure_ascii": False}
