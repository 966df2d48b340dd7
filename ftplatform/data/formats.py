"""The formats by name: how an example is recognised and how it becomes messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftplatform.core.dataset_config import Columns
from ftplatform.core.rows import Message
from ftplatform.data.conversation import Report, from_chat, from_pairs
from ftplatform.data.lines import read_lines

JSONL_FORMATS = ("openai-chat", "prompt-completion", "alpaca")
FORMATS = (*JSONL_FORMATS, "csv")
REQUIRED = {
    "openai-chat": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
_OPTIONAL = {
    "openai-chat": {"parallel_tool_calls", "tools", "functions"},
    "prompt-completion": {"system"},
    "alpaca": {"input", "system"},
}
# In a CSV without a mapping the first pair whose two columns are both there is taken.
KNOWN_PAIRS = (
    ("prompt", "completion"),
    ("user", "assistant"),
    ("question", "answer"),
    ("instruction", "output"),
    ("input", "output"),
)
_DETECTION_LINES = 100


def format_of(example: Mapping[str, Any]) -> str:
    """The JSONL format whose required keys the example has; empty when none fits."""
    return next((name for name in JSONL_FORMATS if all(key in example for key in REQUIRED[name])), "")


def detect_format(path: Path, name: str = "") -> tuple[str, str]:
    """The file's format and what it was recognised by; an empty format comes with what was found instead.

    A ``.csv`` name decides for CSV; in JSONL the first object with the required keys of a format does, among the
    first 100 lines.
    """
    suffix = Path(name or path.name).suffix.lower()
    if suffix == ".csv":
        return "csv", "file name ends in .csv"
    if suffix != ".jsonl":
        return "", f"file name ends in {suffix or 'nothing'}"
    first, seen = "", ""
    for line in read_lines(path):
        if line.number > _DETECTION_LINES:
            break
        text = line.text.strip()
        if not text:
            continue
        first = first or text
        if first in ("[", "{") or first.startswith(("[{", "[ {")):
            return "", "one JSON value over the whole file instead of one object per line"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            if found := format_of(value):
                return found, f"line {line.number} has {', '.join(REQUIRED[found])}"
            # A chat example whose list is misspelt or missing is still best reported as a chat example, key by key.
            seen = seen or f"an object with the keys {', '.join(value) or '(none)'}"
    return "", seen or f"a first line that is no JSON object: {first}"


def messages_of(example: Mapping[str, Any], name: str, report: Report) -> tuple[Message, ...]:
    """Canonical messages of one JSONL example; every problem goes to ``report``."""
    for key in sorted(set(example) - set(REQUIRED[name]) - _OPTIONAL[name] - {"tags"}):
        report("extra_column", key, path=key, severity="warning")
    if not isinstance(example.get("tags", {}), dict):
        report("data_type", example["tags"], path="tags", accepted="an object of names and values")
    if name == "openai-chat":
        for key in ("tools", "functions"):
            if example.get(key):
                report("message_unrecognized_key", f"{key}: tool calls cannot be trained on", path=key)
        if "messages" not in example:
            report("missing_messages_list", f"keys: {', '.join(example) or '(none)'}", path="messages")
            return ()
        return from_chat(example["messages"], report)
    user, answer = REQUIRED[name]
    for key in (user, answer):
        if key not in example:
            report("message_missing_key", f"no {key!r}; keys: {', '.join(example) or '(none)'}", path=key)
    if user not in example or answer not in example:
        return ()
    parts: list[tuple[str, str, Any]] = [("user", user, example[user]), ("assistant", answer, example[answer])]
    if example.get("system"):
        parts.insert(0, ("system", "system", example["system"]))
    messages = from_pairs(parts, report)
    extra = example.get("input") if name == "alpaca" else None
    if not extra:
        return messages
    # Alpaca's prompt is the instruction, a line break and the input, as LLaMA-Factory renders it.
    (given,) = from_pairs([("user", "input", extra)], report)
    return tuple(Message("user", f"{m.content}\n{given.content}", False) if m.role == "user" else m for m in messages)


def columns_of(header: list[str], wanted: Columns | None) -> tuple[Columns | None, str]:
    """The columns to read and, when that is not possible, what is missing."""
    if wanted is not None:
        needed = [wanted.user, wanted.assistant, *([wanted.system] if wanted.system else []), *wanted.tags]
        missing = [c for c in needed if c not in header]
        return (None, f"no column {', '.join(missing)}; columns: {', '.join(header)}") if missing else (wanted, "")
    for user, assistant in KNOWN_PAIRS:
        if user in header and assistant in header:
            return Columns(user=user, assistant=assistant, system="system" if "system" in header else None), ""
    return None, f"columns: {', '.join(header)}"
