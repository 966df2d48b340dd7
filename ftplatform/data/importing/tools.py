"""Tool calls and the functions they may call: OpenAI's form, its deprecated one, and the ones of TRL and ShareGPT."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson

from ftplatform.core.rows import Message, ToolCall
from ftplatform.data.importing.json_values import unplain
from ftplatform.data.importing.row_findings import Report
from ftplatform.data.text import SPECIAL_TOKEN

_CALL = '{"id": "...", "type": "function", "function": {"name": "...", "arguments": "{...}"}}'
_TOOL = '{"type": "function", "function": {"name": "...", "parameters": {...}}}'


def read_calls(entry: dict[str, Any], path: str, role: str | None, report: Report) -> tuple[ToolCall, ...]:
    """Calls of one message: ``tool_calls``, ``function_call``, or ``text`` that is JSON (ShareGPT). An id that is missing
    is left empty."""
    if role not in ("assistant", None):
        report("bad_tool_call", f"a call in a {role} message", path=path, accepted="calls in assistant messages")
        return ()
    if "text" in entry:
        calls = _parsed(entry["text"], path, report)
        if calls is None:
            return ()
        calls = calls if isinstance(calls, list) else [calls]
    elif entry.get("tool_calls"):
        calls, path = entry["tool_calls"], f"{path}.tool_calls"
        if not isinstance(calls, list):
            report("bad_tool_call", calls, path=path, accepted=f"a list of {_CALL}")
            return ()
    else:
        calls, path = [entry["function_call"]], f"{path}.function_call"
    return tuple(call for i, value in enumerate(calls) if (call := _call(value, f"{path}[{i}]", report)) is not None)


def read_tools(example: dict[str, Any], report: Report) -> tuple[dict[str, Any], ...]:
    """``tools`` (a list, or its JSON text) or the deprecated ``functions``, in OpenAI's form."""
    key = "tools" if example.get("tools") else "functions"
    value = example.get(key)
    if not value:
        return ()
    if isinstance(value, str):
        value = _parsed(value, key, report)
    if not isinstance(value, list):
        if value is not None:
            report("bad_tool_call", value, path=key, accepted=f"a list of {_TOOL}")
        return ()
    tools = []
    for i, tool in enumerate(value):
        path = f"{key}[{i}]"
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            report("bad_tool_call", tool, path=path, accepted=_TOOL)
        elif problem := unplain(tool):
            report(*problem, path=path)
        else:
            text = orjson.dumps(function).decode()
            for token in dict.fromkeys(SPECIAL_TOKEN.findall(text)):
                report("special_token_in_content", token, path=path)
            rest = {k: v for k, v in tool.items() if k not in ("type", "function")} if function is not tool else {}
            tools.append({**rest, "type": "function", "function": function})
    return tuple(tools)


def link_calls(messages: list[Message], path: str, report: Report) -> list[Message]:
    """Every call with an id and every result with that of its call; where ids are missing, in order."""
    linked: list[Message] = []
    waiting: list[str] = []
    for i, message in enumerate(messages):
        if message.tool_calls:
            calls = tuple(replace(c, id=c.id or f"call_{i}_{j}") for j, c in enumerate(message.tool_calls))
            message = replace(message, tool_calls=calls)
            waiting = [c.id for c in calls]
        elif message.role == "tool":
            answered = message.tool_call_id or (waiting[0] if waiting else None)
            if answered is None or answered not in waiting:
                found = f"a result of {answered!r}" if answered else "a result without a call"
                report("bad_tool_call", f"{found}, calls waiting: {', '.join(waiting) or 'none'}", path=f"{path}[{i}]")
            else:
                waiting.remove(answered)
                message = replace(message, tool_call_id=answered)
        linked.append(message)
    return linked


def _call(value: Any, path: str, report: Report) -> ToolCall | None:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        report("bad_tool_call", value, path=path, accepted=_CALL)
        return None
    arguments = function.get("arguments")
    if arguments is None or isinstance(arguments, (dict, list)):
        if problem := unplain(arguments):
            report(*problem, path=f"{path}.arguments")
            return None
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    identity = value.get("id")
    if not isinstance(arguments, str) or not isinstance(identity, str | None):
        report("bad_tool_call", value, path=path, accepted=_CALL)
        return None
    for name, text in (("name", function["name"]), ("arguments", arguments), ("id", identity or "")):
        if problem := unplain(text):
            report(*problem, path=f"{path}.{name}")
        for token in dict.fromkeys(SPECIAL_TOKEN.findall(text)):
            report("special_token_in_content", token, path=f"{path}.{name}")
    return ToolCall(identity or "", function["name"], arguments)


def _parsed(text: Any, path: str, report: Report) -> Any:
    try:
        value = orjson.loads(text) if isinstance(text, str) else None
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        value = None
    if value is None:
        report("bad_tool_call", text, path=path, accepted="JSON as a text")
    return value
