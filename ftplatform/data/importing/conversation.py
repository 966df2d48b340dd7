"""Messages of any format -> canonical messages, with every problem they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftplatform.core.rows import Message
from ftplatform.data.importing.json_values import is_utf8
from ftplatform.data.importing.row_findings import Report
from ftplatform.data.importing.tools import link_calls, read_calls
from ftplatform.data.text import SPECIAL_TOKEN


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a format names the parts of a message."""

    role: str
    content: str
    roles: Mapping[str, str]
    calls: str = ""
    """The role whose text is a call of a tool."""


OPENAI = Dialect(
    "role",
    "content",
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "function": "tool",
    },
)
SHAREGPT = Dialect(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
        "observation": "tool",
        "tool": "tool",
        "function_call": "assistant",
    },
    calls="function_call",
)
_OPTIONAL = {"weight", "name", "tool_calls", "tool_call_id", "function_call", "refusal"}
_UNKNOWN = "unknown"
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def dialect_of(messages: Any) -> Dialect:
    """ShareGPT's when the first message has its names, else OpenAI's."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return SHAREGPT if isinstance(first, dict) and "from" in first and "role" not in first else OPENAI


def turn(role: str, value: Any, path: str, report: Report) -> Message:
    """One message from its text; only an assistant's is trained on."""
    return Message(role, read_content(value, path, report), role == "assistant")


def read_turns(value: Any, path: str, report: Report, dialect: Dialect | None = None) -> list[Message]:
    """The messages of a list, calls and their results linked; none when one of them has no role, since whatever else
    the list then seems to lack may be just that one."""
    if not isinstance(value, list) or not value:
        report("missing_messages_list", value, path=path)
        return []
    dialect = dialect or dialect_of(value)
    messages = []
    linked = broken = False
    for i, entry in enumerate(value):
        message = _message(entry, path, i, report, dialect)
        if message.role == _UNKNOWN:
            broken = True
        messages.append(message)
        linked = linked or message.role == "tool" or bool(message.tool_calls)
    if broken:
        return []
    return link_calls(messages, path, report) if linked else messages


def conversation(messages: list[Message], path: str, report: Report) -> tuple[Message, ...]:
    """A whole conversation: with a question and a trained answer; turns after the last answer are left out."""
    if not messages:
        return ()
    last = _last_answer(messages, path, report)
    if last < 0:
        return ()
    trained = asked = False
    for message in messages:
        trained = trained or message.train
        asked = asked or message.role == "user"
    if not trained:
        report("zero_supervised_tokens", "every assistant message has weight 0", path=path)
    if not asked:
        report("example_missing_user_message", _roles(messages), path=path)
    kept = tuple(messages[: last + 1])
    check_order(kept, path, report)
    return kept


def continuation(messages: list[Message], path: str, report: Report) -> tuple[Message, ...]:
    """What follows a prompt: an assistant turn first, one last."""
    if not messages:
        return ()
    last = _last_answer(messages, path, report)
    if last >= 0 and messages[0].role != "assistant":
        report("unrecognized_role", messages[0].role, path=f"{path}[0].role", accepted="an assistant message first")
    return tuple(messages[: last + 1])


def prompt(messages: list[Message], path: str, report: Report) -> tuple[Message, ...]:
    """What an answer is asked for: nothing of it is trained on."""
    if messages and not any(m.role == "user" for m in messages):
        report("example_missing_user_message", _roles(messages), path=path)
    return tuple(replace(m, train=False) if m.train else m for m in messages)


def check_order(messages: tuple[Message, ...], path: str, report: Report) -> None:
    """Warn unless user and assistant take turns, a system message first at most and tools between their calls and the
    next answer."""
    before = "system" if messages and messages[0].role == "system" else "assistant"
    for i, message in enumerate(messages):
        role = message.role
        if i == 0 and role == "system":
            continue
        if role == "user":
            fits = before in ("system", "assistant")
        elif role == "assistant":
            fits = before in ("user", "tool")
        else:
            fits = role == "tool" and (before == "tool" or bool(messages[i - 1].tool_calls))
        if not fits:
            report("roles_not_alternating", _roles(messages), path=path, severity="warning")
            return
        before = role


def read_content(value: Any, path: str, report: Report, may_be_empty: bool = False) -> str:
    """Text of a message: a string, or a list of text parts, which are joined."""
    if type(value) is not str:
        if isinstance(value, list) and value:
            value = _parts(value, path, report)
            if value is None:
                return ""
        elif value is None and may_be_empty:
            return ""
        else:
            report(
                "missing_content" if not value else "data_type",
                f"{value!r}",
                path=path,
                accepted="" if not value else "a text",
            )
            return ""
    if not may_be_empty and (not value or value.isspace()):
        report("missing_content", value or "''", path=path)
        return ""
    check_text(value, path, report)
    return str(value)


def check_text(value: str, path: str, report: Report) -> None:
    """Report what no text may hold: half characters, NUL, control tokens of chat templates."""
    if not is_utf8(value):
        report("not_utf8", "half of a surrogate pair (\\ud800 to \\udfff), which is no character", path=path)
    if "\0" in value:
        report("control_character", f"NUL at character {value.index(chr(0)) + 1}", path=path)
    if "<" in value or "[" in value:
        for token in dict.fromkeys(SPECIAL_TOKEN.findall(value)):
            report("special_token_in_content", token, path=path)


def _message(entry: Any, list_path: str, i: int, report: Report, dialect: Dialect) -> Message:
    if type(entry) is not dict:
        report("data_type", entry, path=f"{list_path}[{i}]", accepted="an object with role and content")
        return Message(_UNKNOWN, "")
    path = f"{list_path}[{i}]"
    said = entry.get(dialect.role)
    role = dialect.roles.get(said) if isinstance(said, str) else None
    if said is None:
        report("message_missing_key", f"no {dialect.role!r}; keys: {', '.join(map(str, entry))}", path=path)
    elif role is None:
        report("unrecognized_role", said, path=f"{path}.{dialect.role}", accepted=", ".join(dialect.roles))
    if len(entry) == 2 and dialect.content in entry and role is not None and said != dialect.calls:
        content = read_content(entry[dialect.content], f"{path}.{dialect.content}", report, role == "tool")
        return Message(role, content, role == "assistant")
    return _full_message(entry, path, role, said, report, dialect)


def _full_message(
    entry: dict[str, Any], path: str, role: str | None, said: Any, report: Report, dialect: Dialect
) -> Message:
    for key in sorted(set(map(str, entry)) - _OPTIONAL - {dialect.role, dialect.content}):
        if entry.get(key) is not None:
            code = "unsupported_content" if key == "audio" else "message_unrecognized_key"
            report(code, key, path=f"{path}.{key}")
    if entry.get("refusal"):
        report("message_unrecognized_key", "refusal", path=f"{path}.refusal")
    calls = read_calls(entry, path, role, report) if entry.get("tool_calls") or entry.get("function_call") else ()
    content_path = f"{path}.{dialect.content}"
    content = ""
    if said is not None and said == dialect.calls:
        calls = read_calls({"text": entry.get(dialect.content)}, content_path, role, report)
    elif dialect.content in entry or calls:
        content = read_content(entry.get(dialect.content), content_path, report, bool(calls) or role == "tool")
    else:
        report("message_missing_key", f"no {dialect.content!r}; keys: {', '.join(map(str, entry))}", path=path)
    train = role == "assistant"
    if (weight := entry.get("weight")) is not None:
        # True == 1 in Python, but a JSON true is not a weight.
        if isinstance(weight, bool) or weight not in (0, 1) or role != "assistant":
            report("bad_weight", f"{weight!r} on a {role} message", path=f"{path}.weight")
        else:
            train = weight == 1
    name, answers = (_name(entry.get(key), f"{path}.{key}", report) for key in ("name", "tool_call_id"))
    return Message(role or _UNKNOWN, content, train, name, calls, answers)


def _name(value: Any, path: str, report: Report) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        report("data_type", value, path=path, accepted="a text")
        return None
    check_text(value, path, report)
    return value


def _parts(parts: list[Any], path: str, report: Report) -> str | None:
    texts = []
    for i, part in enumerate(parts):
        kind = part.get("type", "text") if isinstance(part, dict) else None
        key = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
        if kind is not None and key is None:
            report("unsupported_content", f"a part of type {kind!r}", path=f"{path}[{i}]")
        elif key is None or not isinstance(part.get(key), str):
            report("data_type", part, path=f"{path}[{i}]", accepted='{"type": "text", "text": "..."}')
        else:
            texts.append(part[key])
    return "".join(texts) if len(texts) == len(parts) else None


def _last_answer(messages: list[Message], path: str, report: Report) -> int:
    last = len(messages) - 1
    while last >= 0 and messages[last].role != "assistant":
        last -= 1
    if last < 0:
        report("example_missing_assistant_message", _roles(messages), path=path)
    elif last != len(messages) - 1:
        report("last_message_not_assistant", messages[-1].role, f"{path}[{len(messages) - 1}]", "warning")
    return last


def _roles(messages: list[Message] | tuple[Message, ...]) -> str:
    return ", ".join(m.role for m in messages) or "no usable message"
