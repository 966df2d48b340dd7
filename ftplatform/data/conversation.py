"""One example of any format -> canonical messages, with every problem it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftplatform.core.rows import ROLES, Message
from ftplatform.data.text import SPECIAL_TOKEN

Report = Callable[..., None]
"""``report(code, found, path=..., severity=...)``: notes a problem of the example at hand."""

_KNOWN_KEYS = {"role", "content", "weight", "name"}
_KNOWN_WHEN_EMPTY = {"refusal", "tool_calls", "function_call", "tool_call_id"}


def from_pairs(parts: list[tuple[str, str, Any]], report: Report) -> tuple[Message, ...]:
    """Messages from ``(role, path, value)``: the shape that CSV, alpaca and prompt/completion examples come down to."""
    return tuple(Message(role, _content(value, path, report), train=role == "assistant") for role, path, value in parts)


def from_chat(value: Any, report: Report) -> tuple[Message, ...]:
    """Messages of an OpenAI chat example (the value under ``messages``), trailing turns after the last answer left
    out."""
    if not isinstance(value, list) or not value:
        report("missing_messages_list", value, path="messages")
        return ()
    messages = [_message(entry, f"messages[{i}]", report) for i, entry in enumerate(value)]
    answers = [i for i, m in enumerate(messages) if m is not None and m.role == "assistant"]
    if not answers:
        report(
            "example_missing_assistant_message",
            ", ".join(m.role for m in messages if m) or "no usable message",
            path="messages",
        )
        return ()
    if not any(m.train for m in messages if m is not None and m.role == "assistant"):
        report("zero_supervised_tokens", "every assistant message has weight 0", path="messages")
    if "user" not in [m.role for m in messages if m is not None]:
        report("example_missing_user_message", ", ".join(m.role for m in messages if m), path="messages")
    if answers[-1] != len(messages) - 1:
        last = messages[-1]
        report(
            "last_message_not_assistant", last.role if last else value[-1], f"messages[{len(messages) - 1}]", "warning"
        )
    kept = tuple(m for m in messages[: answers[-1] + 1] if m is not None)
    _check_order(kept, report)
    return kept


def _message(entry: Any, path: str, report: Report) -> Message | None:
    if not isinstance(entry, dict):
        report("data_type", entry, path=path, accepted="an object with role and content")
        return None
    for key in ("role", "content"):
        if key not in entry:
            report("message_missing_key", f"no {key!r}; keys: {', '.join(map(str, entry))}", path=path)
    for key in sorted(set(entry) - _KNOWN_KEYS):
        if key not in _KNOWN_WHEN_EMPTY or entry[key]:
            report("message_unrecognized_key", key, path=f"{path}.{key}")
    role = entry.get("role")
    role = "system" if role == "developer" else role
    if "role" in entry and role not in ROLES:
        report("unrecognized_role", role, path=f"{path}.role")
    content = _content(entry["content"], f"{path}.content", report) if "content" in entry else ""
    train = role == "assistant"
    if "weight" in entry and entry["weight"] is not None:
        weight = entry["weight"]
        # True == 1 in Python, but a JSON true is not a weight.
        if isinstance(weight, bool) or weight not in (0, 1) or role != "assistant":
            report("bad_weight", f"{weight!r} on a {role} message", path=f"{path}.weight")
        else:
            train = weight == 1
    return Message(role, content, train) if isinstance(role, str) else None


def _content(value: Any, path: str, report: Report) -> str:
    if not isinstance(value, str) or not value.strip():
        report("missing_content", value if isinstance(value, str) and value else f"{value!r}", path=path)
        return ""
    if any("\ud800" <= c <= "\udfff" for c in value):
        report("not_utf8", "half of a surrogate pair (\\ud800 to \\udfff), which is no character", path=path)
    for token in dict.fromkeys(SPECIAL_TOKEN.findall(value)):
        report("special_token_in_content", token, path=path)
    return value


def _check_order(messages: tuple[Message, ...], report: Report) -> None:
    roles = [m.role for m in messages]
    turns = roles[1:] if roles and roles[0] == "system" else roles
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
    if turns != expected:
        report("roles_not_alternating", ", ".join(roles), path="messages", severity="warning")
