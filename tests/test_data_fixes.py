"""Automatic fixes: only what needs no guess, shown as a diff, never in place."""

from __future__ import annotations

import difflib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.report.fix_line import fix_line
from ftplatform.data.report.fixes import FIXES, changes, write_fixed
from ftplatform.data.report.unified_diff import unified_diff

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
PAIR = '{"prompt": "Wo ist es?", "completion": "Unterwegs, schön."}\n'


def fix(tmp_path: Path, data: bytes, name: str = "a.jsonl") -> tuple[bytes, dict[str, int]]:
    (tmp_path / name).write_bytes(data)
    applied = write_fixed(tmp_path / name, name, tmp_path / "out")
    assert (tmp_path / name).read_bytes() == data, "never in place"
    assert set(applied) <= set(FIXES)
    return (tmp_path / "out").read_bytes(), dict(applied)


def one(value: Any) -> tuple[Any, tuple[str, ...]]:
    text, fixes = fix_line(json.dumps(value) + "\n")
    return json.loads(text) if text is not None else None, fixes


def test_a_good_file_stays_as_it_is_byte_for_byte(tmp_path: Path) -> None:
    data = (
        json.dumps({"messages": [USER, ANSWER]}, separators=(",", ":"))
        + "\r\n"
        + PAIR
        + '{"id": 12345678901234567890123, "prompt": "x"}'
    ).encode()
    assert fix(tmp_path, data) == (data, {})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_become_utf8(tmp_path: Path, encoding: str) -> None:
    assert fix(tmp_path, PAIR.encode(encoding)) == (PAIR.encode(), {"utf8": 1})


def test_latin1_lines_become_utf8_and_utf8_lines_stay(tmp_path: Path) -> None:
    other = PAIR.replace("Wo", "Wie")
    assert fix(tmp_path, PAIR.encode("latin-1") + other.encode()) == ((PAIR + other).encode(), {"latin1": 1})


def test_a_byte_order_mark_goes(tmp_path: Path) -> None:
    assert fix(tmp_path, PAIR.encode("utf-8-sig")) == (PAIR.encode(), {"byte_order_mark": 1})


def test_rows_without_text_and_repeated_rows_go(tmp_path: Path) -> None:
    data = "\n" + PAIR + "{}\n" + '{"prompt": "", "completion": " "}\n' + PAIR + '{"prompt": "x", "completion": ""}\n'
    out, applied = fix(tmp_path, data.encode())
    assert out.decode() == PAIR + '{"prompt": "x", "completion": ""}\n'
    assert applied == {"empty_row": 3, "duplicate_row": 1}


def test_roles_and_weights_get_their_names(tmp_path: Path) -> None:
    turns = [
        {"role": "Human", "content": "Q"},
        {"role": "gpt", "content": "A", "weight": True},
        USER,
        {**ANSWER, "weight": "0"},
    ]
    value, fixes = one({"messages": turns})
    assert value["messages"] == [USER, {**ANSWER, "weight": 1}, USER, {**ANSWER, "weight": 0}]
    assert fixes == ("role_name", "weight_number")


@pytest.mark.parametrize(
    "turn", [{"role": "customer", "content": "Q"}, {**ANSWER, "weight": 0.5}, {**ANSWER, "weight": None}]
)
def test_what_would_need_a_guess_stays(turn: dict[str, Any]) -> None:
    text = json.dumps({"messages": [USER, turn, ANSWER]})
    assert fix_line(text) == (text, ())


def test_turns_after_the_last_answer_go_in_both_chat_formats() -> None:
    assert one({"messages": [USER, ANSWER, USER]}) == ({"messages": [USER, ANSWER]}, ("trailing_turns",))
    human, gpt = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
    assert one({"conversations": [human, gpt, human]}) == ({"conversations": [human, gpt]}, ("trailing_turns",))
    assert one({"messages": [USER]}) == ({"messages": [USER]}, ())


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ('{"a": "x, }", "b": [1, 2, ], }', '{"a": "x, }", "b": [1, 2 ] }'),
        ('{"a": "x\\",]"},', '{"a": "x\\",]"}'),
    ],
)
def test_trailing_commas_go_and_commas_in_texts_stay(bad: str, good: str) -> None:
    assert fix_line(bad + "\n") == (good + "\n", ("trailing_comma",))


@pytest.mark.parametrize("text", ['{"a": "x"', "{'a': 'x'}", "x", "[" * 5000, '{"a": 1,, }'])
def test_json_that_cannot_be_mended_stays(text: str) -> None:
    assert fix_line(text) == (text, ())


def test_a_key_that_stands_twice_is_left_to_a_person() -> None:
    text = '{"messages": [{"role": "human", "role": "user", "content": "Q"}, {"role": "gpt", "content": "A"}]}'
    assert fix_line(text) == (text, ())


def test_a_line_keeps_its_style_and_its_numbers() -> None:
    text = '{"messages":[{"role":"human","content":"\\u00e9"},{"role":"assistant","content":"A"}],"id":12345678901234567890123}'
    fixed, _ = fix_line(text)
    assert fixed == text.replace("human", "user")


def test_csv_records_without_text_and_repeated_ones_go_whole(tmp_path: Path) -> None:
    data = 'prompt,completion\r\n"a\r\nb",c\r\n,\r\n"a\r\nb",c\r\n\r\nd,e\r\n'
    out, applied = fix(tmp_path, data.encode(), "a.csv")
    assert out.decode() == 'prompt,completion\r\n"a\r\nb",c\r\nd,e\r\n'
    assert applied == {"empty_row": 2, "duplicate_row": 1}


def test_bytes_that_are_no_text_pass_unchanged(tmp_path: Path) -> None:
    data = PAIR.encode() + b"\x81\xff\x00 not text\n" + "schö".encode()[:-1]
    assert fix(tmp_path, data) == (data, {})


def test_a_line_too_long_to_be_looked_at_passes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftplatform.data.report.fixes._LONGEST", 64)
    data = b'{"prompt": "' + "é".encode() * 58 + b'"}' + b" " * 100 + b"\n\n" + b"{}\n"
    assert fix(tmp_path, data) == (data[:-4], {"empty_row": 2})


def test_a_cut_utf16_file_and_a_binary_type_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(PAIR.encode("utf-16")[:-1])
    with pytest.raises(InvalidConfig, match="UTF-16"):
        write_fixed(tmp_path / "a.jsonl", "a.jsonl", tmp_path / "out")
    with pytest.raises(InvalidConfig, match="parquet"):
        list(changes(tmp_path / "a.jsonl", "a.parquet"))
    assert not (tmp_path / "out").exists()


def apply(diff: list[str], old: list[str]) -> list[str]:
    """A patch program of the smallest kind: every context and removed line must be where the diff says."""
    new: list[str] = []
    at = 0
    lines = iter([line for line in diff[2:] if not line.startswith("\\")])
    for line in lines:
        if line.startswith("@@"):
            start, count = (int(n) for n in line.split()[1][1:].split(","))
            start += count == 0
            new += old[at : start - 1]
            at = start - 1
        elif line[0] == "+":
            new.append(line[1:])
        else:
            assert old[at] == line[1:]
            if line[0] == " ":
                new.append(old[at])
            at += 1
    return new + old[at:]


@pytest.mark.parametrize("seed", range(30))
def test_a_diff_leads_from_the_old_file_to_the_new_one_and_is_as_long_as_difflibs(seed: int) -> None:
    chance = random.Random(seed)
    records: list[tuple[str, str | None]] = []
    for i in range(chance.randrange(1, 60)):
        old = f"line {i}\n" if chance.random() < 0.9 else f"two {i}\nlines {i}\n"
        records.append((old, chance.choice([None, f"new {i}\n"]) if chance.random() < 0.15 else old))
    old_lines = [line for old, _ in records for line in old.splitlines(keepends=True)]
    new_lines = [line for _, new in records if new for line in new.splitlines(keepends=True)]
    diff = list(unified_diff(records, "a", "b"))
    if old_lines == new_lines:
        assert diff == []
        return
    assert apply(diff, old_lines) == new_lines
    expected = list(difflib.unified_diff(old_lines, new_lines, "a", "b"))
    assert sum(line.startswith("@@") for line in diff) == sum(line.startswith("@@") for line in expected)


def test_a_line_without_its_break_is_marked_as_diff_does() -> None:
    diff = "".join(unified_diff([("a\n", "a\n"), ("b", None)], "x", "y"))
    assert diff == "--- x\n+++ y\n@@ -1,2 +1,1 @@\n a\n-b\n\\ No newline at end of file\n"


ROLES = st.sampled_from(["user", "assistant", "Human", "gpt", " bot ", "system", "customer", 3, None])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": VALUES}, optional={"weight": VALUES}), max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["messages", "conversations", "prompt", "id"]), TURNS | VALUES, max_size=3))
def test_fixing_a_fixed_line_changes_nothing_and_texts_survive(value: dict[str, Any]) -> None:
    fixed, _ = fix_line(json.dumps(value) + "\n")
    if fixed is None:
        return
    assert fix_line(fixed) == (fixed, ())
    kept = json.loads(fixed)
    assert {key: kept[key] for key in kept if key not in ("messages", "conversations")} == {
        key: value[key] for key in value if key not in ("messages", "conversations")
    }


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.csv", "a.txt"]))
def test_any_bytes_can_be_fixed_and_the_result_is_fixed_already(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, once, twice = (Path(folder) / part for part in ("in", "once", "twice"))
        source.write_bytes(data)
        try:
            write_fixed(source, name, once)
        except InvalidConfig:
            return  # bytes that begin like UTF-16 and are not
        write_fixed(once, name, twice)
        assert once.read_bytes() == twice.read_bytes()
