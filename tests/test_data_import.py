"""Every format becomes canonical rows, and everything that is wrong with an upload is said, place by place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from import_support import Loaded, load

from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.rows import Finding
from ftplatform.data.importing.opening import open_file


def chat(question: str = "Where is my card?", answer: str = "card_arrival", **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **extra}


def lines(*values: Any) -> bytes:
    return b"".join((v if isinstance(v, bytes) else json.dumps(v, ensure_ascii=False).encode()) + b"\n" for v in values)


def codes(result: Loaded) -> list[str]:
    return [f.code for f in result.findings]


def only(result: Loaded) -> Finding:
    assert len(result.findings) == 1, result.findings
    return result.findings[0]


def text(row: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in row.messages]


PAIR = [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize(
    ("name", "data", "format_"),
    [
        ("a.jsonl", lines(chat("Q", "A")), "openai-chat"),
        ("a.jsonl", lines({"prompt": "Q", "completion": "A"}), "prompt-completion"),
        ("a.jsonl", lines({"instruction": "Q", "input": "", "output": "A"}), "alpaca"),
        ("a.csv", b"prompt,completion\r\nQ,A\r\n", "prompt-completion"),
        ("a.csv", b"question,answer\r\nQ,A\r\n", "csv"),
    ],
)
def test_each_format_is_recognised_and_gives_the_same_row(tmp_path: Path, name: str, data: bytes, format_: str) -> None:
    result = load(tmp_path, {name: data})
    assert not result.report.refused
    assert result.report.format == format_
    assert [text(row) for row in result.rows] == [PAIR]
    assert [m.train for m in result.rows[0].messages] == [False, True]
    with_mark = load(tmp_path, {name: b"\xef\xbb\xbf" + data})
    assert [row.hash for row in with_mark.rows] == [row.hash for row in result.rows]


def test_detection_says_what_it_saw(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"instruction": "Q", "output": "A"}))
    reading, _ = open_file("a.jsonl", tmp_path / "a.jsonl", DatasetConfig())
    assert (reading.format, reading.detected_by) == ("alpaca", "line 1 has instruction, output")


def test_alpaca_input_follows_the_instruction_on_a_new_line(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.jsonl": lines({"instruction": "Translate", "input": "chat", "output": "cat"})})
    assert text(result.rows[0]) == [("user", "Translate\nchat"), ("assistant", "cat")]


def test_csv_columns_are_mapped_with_system_and_tags_and_lines_are_physical(tmp_path: Path) -> None:
    data = b'id,text,category,tone\n1,"two\nlines",card_arrival,calm\n2,short,card_lost,\n'
    columns = {"user": "text", "assistant": "category", "tags": ["tone"]}
    result = load(tmp_path, {"a.csv": data}, columns=columns)
    assert [row.source for row in result.rows] == ["a.csv:2", "a.csv:4"]
    assert [row.tags for row in result.rows] == [{"tone": "calm"}, {}]
    assert text(result.rows[0])[0] == ("user", "two\nlines")
    assert [(f.code, f.severity, f.path) for f in result.findings] == [("extra_column", "warning", "id")]


def test_a_csv_without_the_mapped_column_names_the_columns_it_has(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.csv": b"text,label\nQ,A\n"}, columns={"user": "text", "assistant": "category"})
    assert codes(result) == ["missing_column", "too_few_examples"]
    assert "text, label" in result.findings[0].found
    assert result.report.refused


def test_a_bad_csv_record_after_a_quoted_line_break_is_reported_at_its_own_line(tmp_path: Path) -> None:
    data = b'prompt,completion\n"two\nlines",A\nQ,\nQ,A,more\nQ,caf\xe9\nQ,A\n'
    result = load(tmp_path, {"a.csv": data}, max_bad_rows=3)
    assert [(f.code, f.line) for f in result.findings] == [
        ("missing_content", 4),
        ("wrong_cell_count", 5),
        ("not_utf8", 6),
    ]
    assert [row.source for row in result.rows] == ["a.csv:2", "a.csv:7"]
    assert not result.report.refused


def test_a_stray_quote_costs_its_own_record_alone(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.csv": b'prompt,completion\n"Q"x,A\nQ,A\n'}, max_bad_rows=1)
    assert [(f.code, f.line) for f in result.findings] == [("invalid_csv", 2)]
    assert [row.source for row in result.rows] == ["a.csv:3"]
    assert not result.report.refused


def test_a_cell_longer_than_the_csv_modules_own_limit_is_read(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.csv": b"prompt,completion\n" + b"x" * 200_000 + b",A\n"})
    assert len(result.rows[0].messages[0].content) == 200_000


BAD_EXAMPLES = [
    ([1, 2], "data_type", ""),
    ({"message": []}, "missing_messages_list", "messages"),
    ({"messages": []}, "missing_messages_list", "messages"),
    ({"messages": [{"role": "user", "content": "Q"}]}, "example_missing_assistant_message", "messages"),
    ({"messages": [{"content": "Q"}, {"role": "assistant", "content": "A"}]}, "message_missing_key", "messages[0]"),
    ({"messages": [{"role": "user"}, {"role": "assistant", "content": "A"}]}, "message_missing_key", "messages[0]"),
    (
        {"messages": [{"role": "user", "content": "Q", "text": "x"}, {"role": "assistant", "content": "A"}]},
        "message_unrecognized_key",
        "messages[0].text",
    ),
    (
        {"messages": [{"role": "human", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        "unrecognized_role",
        "messages[0].role",
    ),
    (chat(answer="  "), "missing_content", "messages[1].content"),
    (chat(answer=None), "missing_content", "messages[1].content"),  # type: ignore[arg-type]
    (chat("Q <|im_end|><|im_start|>system"), "special_token_in_content", "messages[0].content"),
    (chat(answer="yes</s>"), "special_token_in_content", "messages[1].content"),
    (
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 2}]},
        "bad_weight",
        "messages[1].weight",
    ),
    (
        {"messages": [{"role": "user", "content": "Q", "weight": 1}, {"role": "assistant", "content": "A"}]},
        "bad_weight",
        "messages[0].weight",
    ),
    (
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0}]},
        "zero_supervised_tokens",
        "messages",
    ),
    ({"messages": [{"role": "assistant", "content": "A"}]}, "example_missing_user_message", "messages"),
    (chat(tags=["x"]), "data_type", "tags"),
    (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "not_utf8", "messages[0].content"),
    (b'{"messages": ' + b"1" * 5000 + b"}", "invalid_json", ""),
    (b"[" * 100_000, "nested_too_deeply", ""),
    ({"prompt": "Q", "completion": "A"}, "mixed_formats", ""),
    (b'{"messages": [}', "invalid_json", ""),
    (b'{"messages": "caf\xe9"}', "not_utf8", ""),
]


@pytest.mark.parametrize(("bad", "code", "path"), BAD_EXAMPLES)
def test_a_bad_example_is_reported_with_line_and_place_and_refuses_the_upload(
    tmp_path: Path, bad: Any, code: str, path: str
) -> None:
    result = load(tmp_path, {"a.jsonl": lines(chat(), bad, chat("other"))})
    errors = [f for f in result.report.errors if f.code == code]
    assert errors, codes(result)
    assert (errors[0].line, errors[0].path, errors[0].file) == (2, path, "a.jsonl")
    assert errors[0].accepted
    assert errors[0].fix
    assert result.report.bad_rows == 1
    assert len(result.rows) == 2
    assert result.report.refused


def test_turns_after_the_last_answer_are_left_out_with_a_warning(tmp_path: Path) -> None:
    example = chat("Q", "A")
    example["messages"].append({"role": "user", "content": "Thanks"})
    result = load(tmp_path, {"a.jsonl": lines(example)})
    assert (only(result).code, only(result).severity) == ("last_message_not_assistant", "warning")
    assert text(result.rows[0]) == PAIR
    assert not result.report.refused


def test_weight_zero_marks_a_turn_as_not_trained(tmp_path: Path) -> None:
    example = {"messages": [*chat("Q", "A")["messages"], *chat("Q2", "A2")["messages"]]}
    example["messages"][1]["weight"] = 0
    result = load(tmp_path, {"a.jsonl": lines(example)})
    assert [m.train for m in result.rows[0].messages] == [False, False, False, True]


# Show 7 of the issue: bad input


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    for content in (b"", b" \n\n"):
        result = load(tmp_path, {"a.jsonl": content, "b.jsonl": lines(chat())})
        assert codes(result) == ["empty_file"]
        assert result.report.refused
        assert "a.jsonl" in result.report.summary()


@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32")]
)
def test_a_wrong_encoding_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    for file in ("a.jsonl", "a.csv"):
        data = lines(chat()) if file == "a.jsonl" else b"prompt,completion\nQ,A\n"
        result = load(tmp_path, {file: data.decode().encode(encoding)})
        assert codes(result) == ["not_utf8", "too_few_examples"]
        assert name in result.findings[0].found


def test_latin_1_is_suggested_with_the_letter_it_would_be(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.jsonl": lines(chat(), json.dumps(chat("café"), ensure_ascii=False).encode("latin-1"))})
    assert only(result).code == "not_utf8"
    assert "Latin-1" in only(result).found
    assert "é" in only(result).found


@pytest.mark.parametrize("cut", [3, 17, 30, 60, 78])
def test_a_half_written_jsonl_is_called_cut_off_and_no_tolerance_covers_it(tmp_path: Path, cut: int) -> None:
    whole = lines(*(chat(f"question {i}", "é") for i in range(20)))
    last = lines(chat("question 20", "é"))
    result = load(tmp_path, {"a.jsonl": whole + last[:cut]}, max_bad_rows=100)
    assert only(result).code == "truncated_file"
    assert only(result).line == 21
    assert "cut off" in only(result).fix
    assert result.report.refused


@pytest.mark.parametrize("end", [b"}", b",}", b"]}", b' "x"}'])
def test_a_last_line_that_is_wrong_but_whole_is_not_called_cut_off(tmp_path: Path, end: bytes) -> None:
    last = lines(chat())[:-2] + end + (b"}" if end == b"}" else b"")
    result = load(tmp_path, {"a.jsonl": lines(chat()) + last})
    assert only(result).code == "invalid_json"


def test_a_file_cut_inside_a_character_is_called_cut_off(tmp_path: Path) -> None:
    last = json.dumps(chat("é"), ensure_ascii=False).encode()
    result = load(tmp_path, {"a.jsonl": lines(chat()) + last[: last.index(b"\xc3") + 1]})
    assert only(result).code == "truncated_file"


def test_a_file_cut_in_its_first_line_is_called_cut_off(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.jsonl": lines(chat())[:30]})
    assert "truncated_file" in codes(result)


@pytest.mark.parametrize("data", [b'prompt,completion\nQ,A\n"unclosed,A\nQ,A\n', b"prompt,completion\nQ,A\nQuest"])
def test_a_half_written_csv_is_called_cut_off(tmp_path: Path, data: bytes) -> None:
    result = load(tmp_path, {"a.csv": data}, max_bad_rows=100)
    assert only(result).code == "truncated_file"
    assert only(result).line == 3
    assert result.report.refused


def test_a_complete_last_line_needs_no_line_end(tmp_path: Path) -> None:
    assert len(load(tmp_path, {"a.jsonl": lines(chat())[:-1]}).rows) == 1
    assert len(load(tmp_path, {"a.csv": b"prompt,completion\nQ,A"}).rows) == 1


def test_two_percent_bad_rows_are_all_reported_and_obey_the_tolerance(tmp_path: Path) -> None:
    values: list[Any] = [chat(f"q{i}") for i in range(500)]
    for i in range(0, 500, 50):
        values[i] = chat(answer="")
    refused = load(tmp_path, {"a.jsonl": lines(*values)})
    assert [f.line for f in refused.findings if f.severity == "error"] == list(range(1, 500, 50))
    assert refused.report.refused
    assert "10 of 500 rows are bad" in refused.report.summary()
    accepted = load(tmp_path, {"a.jsonl": lines(*values)}, max_bad_rows=10)
    assert not accepted.report.refused
    assert len(accepted.rows) == 490
    assert load(tmp_path, {"a.jsonl": lines(*values)}, max_bad_rows=9).report.refused


def test_only_bad_rows_are_refused_whatever_the_tolerance(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.jsonl": lines(*[chat(answer="")] * 30)}, max_bad_rows=1000, min_rows=10)
    assert result.report.bad_rows == 30
    assert codes(result).count("missing_content") == 30
    assert codes(result)[-1] == "too_few_examples"
    assert result.report.refused
    assert len(result.bytes["findings.jsonl"].splitlines()) == 31


def test_a_first_value_nested_nearly_as_deep_as_the_parser_goes_is_reported(tmp_path: Path) -> None:
    found = load(tmp_path, {"a.jsonl": b"[" * 900 + b"]" * 900 + b"\n"})
    assert codes(found)[0] in ("unknown_format", "nested_too_deeply")


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("a.docx", b"hello\n", ".docx"),
        ("a.jsonl", b"PK\x03\x04", "ZIP"),
        ("a.json", b'{\n"data": []}', "one JSON object over the whole file"),
        ("a.jsonl.gz", lines(chat()), "not gzip"),
        ("a.jsonl", b"PAR1", "parquet content"),
        ("a.jsonl", lines({"body": "x"}), "body"),
        ("a.jsonl", lines({"text": "x", "label": "y"}), "text, label"),
        ("a.jsonl", b"hello\n", "hello"),
    ],
)
def test_an_unknown_format_says_what_was_found(tmp_path: Path, name: str, data: bytes, found: str) -> None:
    result = load(tmp_path, {name: data})
    assert codes(result) == ["unknown_format", "too_few_examples"]
    assert found in result.findings[0].found


def test_a_format_that_dataset_yaml_asks_for_is_used_or_contradicted(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.jsonl": lines(chat(), {"prompt": "Q", "completion": "A"})}, format="prompt-completion")
    assert codes(result) == ["mixed_formats"]
    assert "unknown_format" in codes(load(tmp_path, {"a.csv": b"prompt,completion\nQ,A\n"}, format="openai-chat"))


def test_own_test_files_are_kept_apart_and_a_missing_one_is_a_finding(tmp_path: Path) -> None:
    files = {"train.jsonl": lines(chat("a")), "test.jsonl": lines(chat("b"), chat("c")), "dataset.yaml": b"min_rows: 1"}
    result = load(tmp_path, files, split={"test_files": ["test.jsonl"]})
    assert (len(result.rows), len(result.test_rows)) == (1, 2)
    assert [f.name for f in result.report.files] == ["test.jsonl", "train.jsonl"]
    absent = load(tmp_path, files, split={"test_files": ["tests.jsonl"]})
    assert codes(absent) == ["missing_test_file"]
    assert absent.report.refused


def test_the_same_file_twice_counts_once_and_is_an_error_as_train_and_test(tmp_path: Path) -> None:
    files = {"a.jsonl": lines(chat()), "b.jsonl": lines(chat())}
    twice = load(tmp_path, files)
    assert (codes(twice), len(twice.rows), twice.report.refused) == (["duplicate_file"], 1, False)
    assert load(tmp_path, files, split={"test_files": ["b.jsonl"]}).report.refused


def test_the_report_masks_personal_data_and_cannot_break_out_of_its_table(tmp_path: Path) -> None:
    bad = json.dumps({"messages": "x | jo@example.com 4111111111111111 <script>"}).encode()
    result = load(tmp_path, {"a.jsonl": lines(chat(), bad)})
    report = result.report
    shown = report.markdown() + result.bytes["findings.jsonl"].decode()
    assert "example.com" not in shown
    assert "4111" not in shown
    assert "<script>" not in report.markdown()
    assert all(line.count(" | ") == 7 for line in report.markdown().splitlines() if "missing_messages_list" in line)


def test_the_order_in_which_files_are_listed_changes_nothing(tmp_path: Path) -> None:
    files = {"b.jsonl": lines(chat("b")), "a.jsonl": lines(chat("a"))}
    one = load(tmp_path, files)
    other = load(tmp_path, dict(reversed(files.items())))
    assert one == other
