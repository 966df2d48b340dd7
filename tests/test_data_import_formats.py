"""Every format by the ecosystem's names becomes the canonical row it means."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from import_support import Loaded, load

from ftplatform.core.rows import Message, Row, ToolCall

U, A, S = (lambda text, r=r: {"role": r, "content": text} for r in ("user", "assistant", "system"))
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": '{"n":1}'}}


def q(text: str) -> Message:
    return Message("user", text, train=False)


def a(text: str, train: bool = True) -> Message:
    return Message("assistant", text, train)


def s(text: str) -> Message:
    return Message("system", text, train=False)


def row(tmp_path: Path, example: dict[str, Any], format_: str, **config: Any) -> Row:
    result = load(tmp_path, {"a.jsonl": json.dumps(example).encode() + b"\n"}, **config)
    assert result.findings == []
    assert result.report.format == format_
    return result.rows[0]


def codes(tmp_path: Path, example: dict[str, Any], **config: Any) -> list[tuple[str, str]]:
    result = load(tmp_path, {"a.jsonl": json.dumps(example).encode() + b"\n"}, **config)
    return [(f.code, f.path) for f in result.findings if f.line]


CONVERSATION = [
    ({"prompt": "Q", "completion": "A"}, "prompt-completion", (q("Q"), a("A"))),
    ({"prompt": [U("Q")], "completion": [A("A")]}, "prompt-completion", (q("Q"), a("A"))),
    (
        {"prompt": [U("Q"), A("x"), U("R")], "completion": [A("A")]},
        "prompt-completion",
        (q("Q"), a("x", False), q("R"), a("A")),
    ),
    ({"system": "S", "prompt": "Q", "completion": "A"}, "prompt-completion", (s("S"), q("Q"), a("A"))),
    ({"instruction": "I", "input": "in", "output": "A"}, "alpaca", (q("I\nin"), a("A"))),
    (
        {"instruction": "I", "output": "A", "system": "S", "history": [["h", "i"]]},
        "alpaca",
        (s("S"), q("h"), a("i"), q("I"), a("A")),
    ),
    (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"},
        "sharegpt",
        (s("S"), q("Q"), a("A")),
    ),
    ({"messages": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "sharegpt", (q("Q"), a("A"))),
    ({"conversations": [U("Q"), A("A")]}, "sharegpt", (q("Q"), a("A"))),
    ({"messages": [{"role": "developer", "content": "S"}, U("Q"), A("A")]}, "openai-chat", (s("S"), q("Q"), a("A"))),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "2"}]},
                A("A"),
            ]
        },
        "openai-chat",
        (q("Q2"), a("A")),
    ),
    (
        {
            "messages": [
                {**U("Q"), "name": "jo"},
                A("A"),
                U("R"),
                {**A("B"), "weight": 0},
                U("T"),
                {**A("C"), "weight": 1},
            ]
        },
        "openai-chat",
        (Message("user", "Q", False, "jo"), a("A"), q("R"), a("B", False), q("T"), a("C")),
    ),
]


@pytest.mark.parametrize(("example", "format_", "messages"), CONVERSATION)
def test_a_conversation_of_each_format(
    tmp_path: Path, example: dict[str, Any], format_: str, messages: tuple[Message, ...]
) -> None:
    found = row(tmp_path, {**example, "tags": {"topic": "x"}}, format_)
    assert (found.kind, found.messages, found.tags) == ("chat", messages, {"topic": "x"})


PREFERENCE = [
    {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    {"prompt": [U("Q")], "chosen": [A("good")], "rejected": [A("bad")]},
    {"prompt": "Q", "chosen": [U("Q"), A("good")], "rejected": [U("Q"), A("bad")]},
    {"chosen": [U("Q"), A("good")], "rejected": [U("Q"), A("bad")]},
    {"chosen": "Q good", "rejected": "Q bad"},
    {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
    {"instruction": "Q", "chosen": "good", "rejected": "bad"},
    {
        "conversations": [{"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    {"input": {"messages": [U("Q")]}, "preferred_output": [A("good")], "non_preferred_output": [A("bad")]},
    {"input": {"messages": [U("Q")]}, "preferred_completion": [A("good")], "non_preferred_completion": [A("bad")]},
]


@pytest.mark.parametrize("example", PREFERENCE)
def test_every_form_of_a_preference_means_the_same(tmp_path: Path, example: dict[str, Any]) -> None:
    found = row(tmp_path, example, "openai-preference" if "input" in example else "preference")
    assert (found.kind, found.messages) == ("preference", (q("Q"),))
    assert (found.chosen, found.rejected) == ((a("good"),), (a("bad"),))


@pytest.mark.parametrize(
    ("example", "code", "path"),
    [
        ({"prompt": "Q", "chosen": "x", "rejected": "x"}, "no_preference", "chosen"),
        ({"chosen": "abc", "rejected": "xyz"}, "example_missing_user_message", "prompt"),
        ({"prompt": "Q", "chosen": [U("x")], "rejected": "y"}, "example_missing_assistant_message", "chosen"),
        (
            {"input": {"messages": [U("Q")]}, "preferred_output": [U("a")], "non_preferred_output": [A("b")]},
            "example_missing_assistant_message",
            "preferred_output",
        ),
        (
            {"input": {}, "preferred_output": [A("a")], "non_preferred_output": [A("b")]},
            "missing_messages_list",
            "input.messages",
        ),
        ({"prompt": "Q", "completion": "A", "label": "maybe"}, "bad_label", "label"),
        ({"prompt": "Q", "completion": ""}, "missing_content", "completion"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, A("A")]},
            "unsupported_content",
            "messages[0].content[0]",
        ),
        (
            {"messages": [U("Q"), {"role": "tool", "content": "x", "tool_call_id": "z"}, A("A")]},
            "bad_tool_call",
            "messages[1]",
        ),
        (
            {"messages": [U("Q"), {"role": "assistant", "tool_calls": [{"id": "x"}]}]},
            "bad_tool_call",
            "messages[1].tool_calls[0]",
        ),
        ({"messages": [U("Q"), A("A")], "tools": [{"type": "function"}]}, "bad_tool_call", "tools[0]"),
        (
            {"messages": [U("Q"), A("A")], "tools": [{**TOOL, "function": {"name": "</s>"}}]},
            "special_token_in_content",
            "tools[0]",
        ),
        ({"messages": [U("Q")], "answer": 10**30}, "number_out_of_range", "answer"),
        ({"messages": [U("a\0b"), A("A")]}, "control_character", "messages[0].content"),
        ({"text": "\ud83d"}, "not_utf8", "text"),
        (
            {"conversations": [{"from": "robot", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "unrecognized_role",
            "conversations[0].from",
        ),
    ],
)
def test_what_is_wrong_with_a_row_of_a_format_is_said_at_its_place(
    tmp_path: Path, example: dict[str, Any], code: str, path: str
) -> None:
    assert (code, path) in codes(tmp_path, example)


def test_kto_rows_keep_their_label(tmp_path: Path) -> None:
    for said, label in ((True, True), (False, False), ("yes", True), (0, False)):
        found = row(tmp_path, {"prompt": "Q", "completion": "A", "label": said}, "kto")
        assert (found.kind, found.label, found.messages) == ("labelled", label, (q("Q"), a("A")))


def test_a_reinforcement_row_keeps_everything_beside_the_messages(tmp_path: Path) -> None:
    found = row(tmp_path, {"messages": [U("2+2?")], "answer": 4, "meta": {"a": [1.5, None]}}, "openai-reinforcement")
    assert (found.kind, found.extra, found.messages) == (
        "prompt",
        {"answer": 4, "meta": {"a": [1.5, None]}},
        (q("2+2?"),),
    )
    prompt = row(tmp_path, {"prompt": "2+2?", "solution": "4"}, "prompt")
    assert (prompt.kind, prompt.extra) == ("prompt", {"solution": "4"})


def test_a_chat_row_without_an_answer_is_a_broken_chat_row_not_a_prompt(tmp_path: Path) -> None:
    assert codes(tmp_path, {"messages": [U("Q")]}) == [("example_missing_assistant_message", "messages")]


def test_a_document_is_kept_as_it_stands(tmp_path: Path) -> None:
    found = row(tmp_path, {"text": " a\n\nb "}, "text")
    assert (found.kind, found.text, found.messages) == ("text", " a\n\nb ", ())


CALLED = (
    q("Q"),
    Message("assistant", "", True, tool_calls=(ToolCall("c1", "track", '{"n":1}'),)),
    Message("tool", "late", False, tool_call_id="c1"),
    a("A"),
)


def test_tools_and_calls_of_openai_in_their_new_and_their_old_form(tmp_path: Path) -> None:
    new = {
        "messages": [
            U("Q"),
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "late"},
            A("A"),
        ],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }
    found = row(tmp_path, new, "openai-chat")
    assert (found.messages, found.tools) == (CALLED, (TOOL,))
    old = {
        "messages": [
            U("Q"),
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "function", "name": "track", "content": "late"},
            A("A"),
        ],
        "functions": [TOOL["function"]],
    }
    found = row(tmp_path, old, "openai-chat")
    assert found.tools == (TOOL,)
    assert found.messages[1].tool_calls == (ToolCall("call_1_0", "track", '{"n":1}'),)
    assert found.messages[2] == Message("tool", "late", False, "track", tool_call_id="call_1_0")


def test_sharegpt_calls_are_tool_calls(tmp_path: Path) -> None:
    found = row(
        tmp_path,
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": '{"name": "track", "arguments": {"n": 1}}'},
                {"from": "observation", "value": "late"},
                {"from": "gpt", "value": "A"},
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
        "sharegpt",
    )
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.messages[1].tool_calls == (ToolCall("call_1_0", "track", '{"n": 1}'),)
    assert found.tools == (TOOL,)


def test_speakers_that_do_not_take_turns_are_a_warning(tmp_path: Path) -> None:
    talk = [{"from": f, "value": "x"} for f in ("human", "human", "gpt")]
    result = load(tmp_path, {"a.jsonl": json.dumps({"conversations": talk}).encode()})
    assert [(f.code, f.severity) for f in result.findings] == [("roles_not_alternating", "warning")]
    assert len(result.rows) == 1


def test_an_override_decides_where_detection_would_see_another_format(tmp_path: Path) -> None:
    example = {"prompt": "Q", "completion": "A", "label": True}
    result = load(tmp_path, {"a.jsonl": json.dumps(example).encode()}, format="prompt-completion")
    assert [(f.code, f.path) for f in result.findings] == [("extra_column", "label")]
    assert result.rows[0].kind == "chat"
    assert result.report.files[0].detected_by == "dataset.yaml"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_columns_make_every_kind_of_row(tmp_path: Path, name: str) -> None:
    values = {"question": "Q", "good": "yes!", "bad": "no!", "ok": "no", "body": "doc", "team": "x"}

    def rows(**columns: Any) -> Loaded:
        data = json.dumps(values).encode()
        if name == "a.csv":
            out = io.StringIO()
            csv.writer(out).writerows([values.keys(), values.values()])
            data = out.getvalue().encode()
        result = load(tmp_path, {name: data}, columns={**columns, "tags": ["team"]})
        assert not result.report.refused
        assert result.report.format == "csv"
        assert result.rows[0].tags == {"team": "x"}
        return result

    chat = rows(user="question", assistant="good").rows[0]
    assert (chat.kind, chat.messages) == ("chat", (q("Q"), a("yes!")))
    preference = rows(user="question", chosen="good", rejected="bad").rows[0]
    assert (preference.kind, preference.rejected) == ("preference", (a("no!"),))
    labelled = rows(user="question", assistant="good", label="ok").rows[0]
    assert (labelled.kind, labelled.label) == ("labelled", False)
    assert rows(text="body").rows[0].text == "doc"
    assert rows(user="question").rows[0].kind == "prompt"


def test_a_place_is_named_by_the_customers_own_column(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.csv": b"Frage,Antwort\nx,\n"}, columns={"user": "Frage", "assistant": "Antwort"})
    assert [(f.code, f.path) for f in result.findings if f.line] == [("missing_content", "Antwort")]
