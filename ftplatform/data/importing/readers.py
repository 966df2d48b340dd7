"""One example of a format -> the fields of a canonical row; every problem goes to ``report``.

Each reader gets the example as a dict with string keys and returns keyword arguments of ``core.rows.Row``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ftplatform.core.rows import Message
from ftplatform.data.importing.conversation import (
    OPENAI,
    SHAREGPT,
    check_order,
    check_text,
    continuation,
    conversation,
    dialect_of,
    prompt,
    read_content,
    read_turns,
    turn,
)
from ftplatform.data.importing.json_values import unplain
from ftplatform.data.importing.row_findings import Report
from ftplatform.data.importing.tools import read_tools

Fields = dict[str, Any]
Example = dict[str, Any]

# Anthropic's transcripts, as in its helpful/harmless preference files.
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def read_chat(example: Example, report: Report) -> Fields:
    turns = [*_system(example, report), *read_turns(example["messages"], "messages", report, OPENAI)]
    return {"messages": conversation(turns, "messages", report), "tools": read_tools(example, report)}


def read_sharegpt(example: Example, report: Report) -> Fields:
    key = "conversations" if "conversations" in example else "messages"
    turns = [*_system(example, report), *read_turns(example[key], key, report)]
    return {"messages": conversation(turns, key, report), "tools": read_tools(example, report)}


def read_reinforcement(example: Example, report: Report) -> Fields:
    turns = [*_system(example, report), *read_turns(example["messages"], "messages", report, OPENAI)]
    return {
        "kind": "prompt",
        "messages": prompt(turns, "messages", report),
        "tools": read_tools(example, report),
        "extra": _rest(example, {"messages", "system", "tools", "functions", "parallel_tool_calls", "tags"}, report),
    }


def read_prompt(example: Example, report: Report) -> Fields:
    return {
        "kind": "prompt",
        "messages": _prompt(example, report),
        "tools": read_tools(example, report),
        "extra": _rest(example, {"prompt", "system", "tools", "tags"}, report),
    }


def read_pair(example: Example, report: Report) -> Fields:
    """TRL's prompt and completion: the loss is on the completion alone."""
    head = _prompt(example, report)
    messages = (*head, *_output(example["completion"], "completion", report))
    if not isinstance(example["prompt"], str):
        check_order(messages, "prompt", report)
    return {"messages": messages, "tools": read_tools(example, report)}


def read_kto(example: Example, report: Report) -> Fields:
    """TRL's prompt, completion and label; or a chat whose last answer the label is about."""
    key = "label" if "label" in example else "kto_tag"
    said = example[key]
    label = (
        _LABELS.get(said.strip().casefold() if isinstance(said, str) else said) if isinstance(said, str | int) else None
    )
    if label is None:
        report("bad_label", repr(said), path=key)
    if "messages" not in example:
        return {**read_pair(example, report), "kind": "labelled", "label": label}
    fields = read_chat(example, report)
    before, answer = fields["messages"][:-1], fields["messages"][-1:]
    messages = (*(replace(m, train=False) if m.train else m for m in before), *answer)
    return {**fields, "messages": messages, "kind": "labelled", "label": label}


def read_alpaca(example: Example, report: Report) -> Fields:
    """The prompt is the instruction, a line break and the input, as LLaMA-Factory renders it; ``history`` goes before
    and is learned too."""
    messages = _system(example, report)
    for i, pair in enumerate(_history(example, report)):
        for role, text in zip(("user", "assistant"), pair, strict=True):
            messages.append(turn(role, text, f"history[{i}]", report))
    return {
        "messages": (*messages, _instruction(example, report), turn("assistant", example["output"], "output", report))
    }


def read_text(example: Example, report: Report) -> Fields:
    text = example["text"]
    if not isinstance(text, str):
        report("data_type", text, path="text", accepted="a text")
    elif not text.strip():
        report("missing_content", text or "''", path="text")
    else:
        check_text(text, "text", report)
    return {"kind": "text", "messages": (), "text": text}


def read_openai_preference(example: Example, report: Report) -> Fields:
    given = example["input"]
    if not isinstance(given, dict):
        report("data_type", given, path="input", accepted="an object with messages")
        return {"messages": ()}
    if "messages" not in given:
        report("missing_messages_list", f"keys: {', '.join(map(str, given)) or '(none)'}", path="input.messages")
    messages = read_turns(given["messages"], "input.messages", report, OPENAI) if "messages" in given else []
    outputs = []
    for kind in ("preferred", "non_preferred"):
        key = f"{kind}_output" if f"{kind}_output" in example else f"{kind}_completion"
        outputs.append(_output(example.get(key), key, report))
    tools = {key: given[key] for key in ("tools", "functions") if key in given}
    return _preference(prompt(messages, "input.messages", report), outputs, report) | {
        "tools": read_tools(tools, report)
    }


def read_preference(example: Example, report: Report) -> Fields:
    """TRL's chosen and rejected: with the prompt beside them, in them (their common beginning), or as transcripts."""
    chosen, rejected = example["chosen"], example["rejected"]
    tools = {"tools": read_tools(example, report)}
    has_prompt = any(key in example for key in ("prompt", "conversations", "instruction"))
    if isinstance(chosen, str) and isinstance(rejected, str) and not has_prompt:
        if all(text.lstrip("\n").startswith("Human:") for text in (chosen, rejected)):
            both = [_transcript(chosen, "chosen", report), _transcript(rejected, "rejected", report)]
            return _common(both, report) | tools
        return _common_text(chosen, rejected, report, _system(example, report)) | tools
    if all(_begins_with_prompt(value) for value in (chosen, rejected)):
        both = [read_turns(chosen, "chosen", report), read_turns(rejected, "rejected", report)]
        fields = _common(both, report)
        said = example.get("prompt")
        if isinstance(said, str) and said not in [m.content for m in fields["messages"]]:
            report("data_type", said, path="prompt", accepted="the prompt that chosen and rejected begin with")
        return fields | tools
    head = _prompt(example, report) if has_prompt else ()
    if not has_prompt:
        report("message_missing_key", f"no 'prompt'; keys: {', '.join(example)}", path="prompt")
    return _preference(head, [_output(chosen, "chosen", report), _output(rejected, "rejected", report)], report) | tools


def _prompt(example: Example, report: Report) -> tuple[Message, ...]:
    system = _system(example, report)
    if "conversations" in example:
        return (
            *system,
            *prompt(
                read_turns(example["conversations"], "conversations", report, dialect_of(example["conversations"])),
                "conversations",
                report,
            ),
        )
    if "prompt" not in example and "instruction" in example:
        return (*system, _instruction(example, report))
    given = example["prompt"]
    if isinstance(given, list):
        return (*system, *prompt(read_turns(given, "prompt", report), "prompt", report))
    return (*system, turn("user", given, "prompt", report))


def _output(value: Any, path: str, report: Report) -> tuple[Message, ...]:
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return continuation(read_turns(value, path, report), path, report)
    return (turn("assistant", value, path, report),)


def _system(example: Example, report: Report) -> list[Message]:
    return [turn("system", example["system"], "system", report)] if example.get("system") not in (None, "") else []


def _instruction(example: Example, report: Report) -> Message:
    message = turn("user", example["instruction"], "instruction", report)
    if example.get("input") in (None, ""):
        return message
    return Message("user", f"{message.content}\n{read_content(example['input'], 'input', report)}", False)


def _history(example: Example, report: Report) -> list[Any]:
    pairs = example.get("history") or []
    if isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return pairs
    report("data_type", pairs, path="history", accepted="a list of [question, answer]")
    return []


def _rest(example: Example, reserved: set[str], report: Report) -> dict[str, Any]:
    rest = {key: value for key, value in example.items() if key not in reserved}
    for key, value in rest.items():
        if problem := unplain({key: value}):
            report(*problem, path=key)
    return rest


def _preference(head: tuple[Message, ...], outputs: Sequence[tuple[Message, ...]], report: Report) -> Fields:
    chosen, rejected = outputs
    if chosen == rejected and any(m.content or m.tool_calls for m in chosen):
        report("no_preference", "chosen and rejected are the same", path="chosen")
    return {"kind": "preference", "messages": head, "chosen": chosen, "rejected": rejected}


def _begins_with_prompt(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    dialect = SHAREGPT if isinstance(first, dict) and "role" not in first else OPENAI
    role = first.get(dialect.role) if isinstance(first, dict) else None
    return isinstance(role, str) and dialect.roles.get(role) in ("system", "user")


def _common(both: list[list[Message]], report: Report) -> Fields:
    if not all(both):
        return {"messages": ()}
    shared = next((i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b), min(map(len, both)))
    # The answers are what differs: where one is the beginning of the other, the last turn in common belongs to both.
    while shared and (
        shared >= min(map(len, both)) or both[0][shared].role != "assistant" or both[1][shared].role != "assistant"
    ):
        shared -= 1
    head = prompt(both[0][:shared], "chosen", report)
    if not head:
        report("example_missing_user_message", "chosen and rejected do not begin with the same prompt", path="chosen")
        return {"messages": ()}
    outputs = [
        continuation(turns[shared:], path, report) for turns, path in zip(both, ("chosen", "rejected"), strict=True)
    ]
    return _preference(head, outputs, report)


def _common_text(chosen: str, rejected: str, report: Report, system: list[Message]) -> Fields:
    shared = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected))
    )
    # Words stay whole: the prompt ends at the last white space that both have.
    end = next((i for i in range(shared, 0, -1) if chosen[i - 1].isspace()), 0)
    if not chosen[:end].strip():
        report("example_missing_user_message", "no prompt, and chosen and rejected do not begin alike", path="prompt")
        return {"messages": ()}
    head = (*system, turn("user", chosen[:end].strip(), "chosen", report))
    outputs = [
        (turn("assistant", text[end:].strip(), path, report),)
        for text, path in ((chosen, "chosen"), (rejected, "rejected"))
    ]
    return _preference(head, outputs, report)


def _transcript(text: str, path: str, report: Report) -> list[Message]:
    pieces = _SPEAKER.split("\n\n" + text.lstrip("\n"))
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        turn(roles[speaker], said.strip(), f"{path}[{i}]", report)
        for i, (speaker, said) in enumerate(zip(pieces[1::2], pieces[2::2], strict=True))
    ]
