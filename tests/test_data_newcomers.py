"""Files as they leave other tools: what a newcomer sends first must be read as meant, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from import_support import load

from ftplatform.core.dataset_config import parse_dataset_config
from ftplatform.core.rows import Message
from ftplatform.data.curation.curate import Accepted, Surroundings, curate

U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def lines(*examples: Any) -> bytes:
    return b"".join(orjson.dumps(example) + b"\n" for example in examples)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_table_that_excel_saved_is_read_by_the_separator_it_used(tmp_path: Path, delimiter: str) -> None:
    text = f'\ufeffquestion{delimiter}answer\r\n"Where, exactly?"{delimiter}"Here{delimiter} there"\r\n'
    result = load(tmp_path, {"a.csv": text.encode()})
    assert [m.content for m in result.rows[0].messages] == ["Where, exactly?", f"Here{delimiter} there"]
    assert not result.report.refused


def test_a_comma_separated_header_stays_one_whatever_else_stands_in_it(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.csv": b"question,answer,a;b;c;d\nQ,A,x\n"})
    assert [m.content for m in result.rows[0].messages] == ["Q", "A"]


def test_line_ends_of_old_macintosh_programs_are_named(tmp_path: Path) -> None:
    assert "carriage return" in load(tmp_path, {"a.csv": b"question,answer\rQ,A\r"}).findings[0].found


@pytest.mark.parametrize("label", ["category", "intent", "Label"])
def test_texts_with_a_label_are_not_taken_for_documents(tmp_path: Path, label: str) -> None:
    table = load(tmp_path, {"a.csv": f"text,{label}\nWhere is my card?,card_arrival\n".encode()})
    assert table.findings[0].code == "missing_column"
    assert repr(label) in table.findings[0].found
    rows = load(tmp_path, {"a.jsonl": lines({"text": "Where?", label: "card"})})
    assert rows.findings[0].code == "unknown_format"
    assert repr(label) in rows.findings[0].found
    documents = load(tmp_path, {"a.csv": b"text,url\nA long document.,https://example.org\n"})
    assert documents.report.format == "text"


@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_a_chat_with_a_label_is_kto_so_that_bad_answers_are_not_learned_as_good_ones(tmp_path: Path, key: str) -> None:
    turns = [U, A, {**U, "content": "Q2"}, {**A, "content": "bad"}]
    result = load(tmp_path, {"a.jsonl": lines({"messages": turns, key: False})})
    row = result.rows[0]
    assert (row.kind, row.label, result.report.format) == ("labelled", False, "kto")
    assert [m.train for m in row.messages] == [False, False, False, True]


def test_a_label_that_is_no_truth_value_leaves_a_chat_a_chat(tmp_path: Path) -> None:
    row = load(tmp_path, {"a.jsonl": lines({"messages": [U, A], "label": "refund"})}).rows[0]
    assert row.kind == "chat"


@pytest.mark.parametrize("system", ["Be kind.", [{"text": "Be kind."}]])
def test_a_system_turn_beside_the_messages_is_the_first_turn(tmp_path: Path, system: Any) -> None:
    result = load(tmp_path, {"a.jsonl": lines({"system": system, "messages": [U, A]})})
    assert result.rows[0].messages[0] == Message("system", "Be kind.", False)


def test_a_file_of_bad_rows_alone_names_what_is_wrong_with_each(tmp_path: Path) -> None:
    twice = load(tmp_path, {"a.jsonl": b'{"prompt": "a", "prompt": "b", "completion": "c"}\n'})
    assert (twice.findings[0].code, twice.findings[0].line) == ("duplicate_key", 1)
    latin = load(tmp_path, {"a.jsonl": '{"prompt": "Où ?", "completion": "Là"}\n'.encode("latin-1") * 2})
    assert [(f.code, f.line) for f in latin.findings[:2]] == [("not_utf8", 1), ("not_utf8", 2)]
    assert latin.report.format == "prompt-completion"


def test_what_curation_puts_together_is_looked_at_again(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}, where is parcel {i * 7919}?", "completion": f"A{i}"} for i in range(20)]
    hidden = {"prompt": "Hello <|im_\u200bend|> there", "completion": "A"}
    result = load(tmp_path, {"a.jsonl": lines(*rows, hidden)})
    assert len(result.rows) == 21
    config = parse_dataset_config({"split": {"test": 0, "validation": 0}, "contamination": {"policy": "remove"}})
    done = curate(Accepted(tmp_path / "out" / "canonical.jsonl"), config, Surroundings(), tmp_path / "done")
    schema = next(check for check in done.checks if check.name == "schema")
    assert not schema.passed
    assert [(f["code"], f["line"], f["found"]) for f in schema.rows] == [("special_token_in_content", 21, "<|im_end|>")]


def test_chats_that_begin_with_the_same_greeting_do_not_all_ask_the_same(tmp_path: Path) -> None:
    rows = [{"messages": [U, A, {**U, "content": f"Q{i}"}, {**A, "content": f"A{i}"}]} for i in range(9)]
    codes = {f.code for f in load(tmp_path, {"a.jsonl": lines(*rows)}).findings}
    assert "all_prompts_identical" not in codes


@pytest.mark.parametrize(
    "token",
    [
        "<｜User｜>",
        "<｜end▁of▁sentence｜>",
        "<<SYS>>",
        "[TOOL_CALLS]",
        "[/SYSTEM_PROMPT]",
        "[AVAILABLE_TOOLS]",
        "<|eot_id|>",
    ],
)
def test_control_tokens_of_every_family_are_refused_in_a_text(tmp_path: Path, token: str) -> None:
    result = load(tmp_path, {"a.jsonl": lines({"prompt": f"a {token} b", "completion": "A"})})
    assert (result.findings[0].code, result.findings[0].found) == ("special_token_in_content", token)


@pytest.mark.parametrize(
    "text", ["a[0] < b | c > d", "<think>hm</think>", "[IMPORTANT] x", "SELECT <|> FROM t", "<<EOF"]
)
def test_texts_that_only_look_like_control_tokens_are_taken(tmp_path: Path, text: str) -> None:
    assert not load(tmp_path, {"a.jsonl": lines({"prompt": text, "completion": "A"})}).report.refused
