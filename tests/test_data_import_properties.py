"""What holds for any rows and any bytes: formats are read as written, borders and workers change nothing, no crash."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from import_support import Loaded, load

from ftplatform.core.rows import Message, Row, ToolCall
from ftplatform.data.text import SPECIAL_TOKEN

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

# Everything a customer may write: no half characters, no NUL, no control tokens, and not only white space.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30).filter(
    lambda t: bool(t.strip()) and not SPECIAL_TOKEN.search(t)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e15, 1e15) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def turns(draw: Any, calls: bool = False) -> tuple[Message, ...]:
    messages = [Message("system", draw(TEXT), False)] if draw(st.booleans()) else []
    for i in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXT), False))
        if calls and draw(st.booleans()):
            messages.append(
                Message("assistant", "", True, tool_calls=(ToolCall(f"c{i}", draw(TEXT), json.dumps(draw(JSON))),))
            )
            messages.append(Message("tool", draw(TEXT), False, tool_call_id=f"c{i}"))
        messages.append(Message("assistant", draw(TEXT), True))
    return tuple(messages)


def read(data: bytes, name: str = "a.jsonl", **options: Any) -> Loaded:
    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), {name: data}, **options)


def contents(rows: list[Row]) -> list[Any]:
    return [(r.kind, r.messages, r.chosen, r.rejected, r.label, r.text, r.extra) for r in rows]


def written(rows: list[Row], write: Callable[[Row], dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(write(row)).encode() + b"\n" for row in rows)


def plain(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.to_json().items() if k != "weight"} for m in messages]


def rows(messages: Any, **fields: Any) -> Any:
    return st.lists(st.builds(Row, messages=messages, source=st.just("x:1"), **fields), min_size=1, max_size=4)


ONE = st.tuples(
    st.builds(lambda t: Message("user", t, False), TEXT), st.builds(lambda t: Message("assistant", t), TEXT)
)
PROMPT = turns().map(lambda m: tuple(Message(x.role, x.content, False) for x in m[:-1]))
ANSWER = st.builds(lambda t: (Message("assistant", t),), TEXT)
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def check(found: Loaded, expected: list[Row]) -> None:
    assert [f for f in found.findings if f.severity == "error"] == []
    assert contents(found.rows) == contents(expected)


@QUICK
@given(rows(turns(calls=True)))
def test_openai_chat_is_read_as_written(expected: list[Row]) -> None:
    check(read(written(expected, lambda r: {"messages": plain(r.messages)})), expected)


@QUICK
@given(rows(turns()))
def test_sharegpt_is_read_as_written(expected: list[Row]) -> None:
    check(
        read(
            written(
                expected,
                lambda r: {"conversations": [{"from": SHAREGPT[m.role], "value": m.content} for m in r.messages]},
            )
        ),
        expected,
    )


@QUICK
@given(rows(ONE))
@example([Row((Message("user", '":', False), Message("assistant", '\\":')), "x:1")])
def test_pairs_are_read_as_written_in_json_tables_and_lists(expected: list[Row]) -> None:
    pairs = [{"prompt": r.messages[0].content, "completion": r.messages[1].content} for r in expected]
    check(
        read(written(expected, lambda r: {"instruction": r.messages[0].content, "output": r.messages[1].content})),
        expected,
    )
    check(read(json.dumps(pairs).encode(), "a.json"), expected)
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(pairs), out)
    check(read(out.getvalue(), "a.parquet"), expected)
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([["prompt", "completion"], *(p.values() for p in pairs)])
    check(read(text.getvalue().encode(), "a.csv"), expected)


@QUICK
@given(rows(PROMPT, kind=st.just("preference"), chosen=ANSWER, rejected=ANSWER))
def test_preferences_are_read_as_written(expected: list[Row]) -> None:
    expected = [r for r in expected if r.chosen != r.rejected]
    if expected:
        check(
            read(
                written(
                    expected,
                    lambda r: {"prompt": plain(r.messages), "chosen": plain(r.chosen), "rejected": plain(r.rejected)},
                )
            ),
            expected,
        )
        check(
            read(
                written(
                    expected,
                    lambda r: {
                        "input": {"messages": plain(r.messages)},
                        "preferred_output": plain(r.chosen),
                        "non_preferred_output": plain(r.rejected),
                    },
                )
            ),
            expected,
        )
        check(
            read(
                written(
                    expected,
                    lambda r: {k: plain(r.messages + v) for k, v in (("chosen", r.chosen), ("rejected", r.rejected))},
                )
            ),
            expected,
        )


@QUICK
@given(rows(ONE, kind=st.just("labelled"), label=st.booleans()))
def test_labelled_rows_are_read_as_written(expected: list[Row]) -> None:
    check(
        read(
            written(
                expected,
                lambda r: {"prompt": r.messages[0].content, "completion": r.messages[1].content, "label": r.label},
            )
        ),
        expected,
    )


@QUICK
@given(rows(st.just(()), kind=st.just("text"), text=TEXT))
def test_documents_are_read_as_written(expected: list[Row]) -> None:
    check(read(written(expected, lambda r: {"text": r.text})), expected)


@QUICK
@given(
    rows(
        PROMPT,
        kind=st.just("prompt"),
        extra=st.dictionaries(
            TEXT.filter(lambda k: k not in ("messages", "tools", "functions", "tags")), JSON, min_size=1, max_size=3
        ),
    )
)
def test_reinforcement_rows_are_read_as_written(expected: list[Row]) -> None:
    check(
        read(written(expected, lambda r: {"messages": plain(r.messages), **r.extra}), format="openai-reinforcement"),
        expected,
    )


VALUES = st.lists(
    st.sampled_from(
        [
            b'{"text": "a"}',
            b'{"text": "a \\" ] , {"}',
            b'{"text": ""}',
            b"",
            b"{",
            b"3",
            b'{"text": "caf\xe9"}',
            b'{"text":\r"b"}',
            b'"x',
        ]
    ),
    max_size=12,
)
NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"]


def same(data: bytes, name: str, blocks: list[int]) -> None:
    first, *others = (read(data, name, block=block) for block in blocks)
    for other in others:
        assert other.bytes == first.bytes
        assert (other.report.counts, other.report.files) == (first.report.counts, first.report.files)


@QUICK
@given(VALUES, st.sampled_from([b"\n", b",\n", b"\r\n"]), st.booleans(), st.sampled_from(NAMES))
def test_block_borders_never_change_the_result(values: list[bytes], glue: bytes, end: bool, name: str) -> None:
    data = glue.join([b"text" if name[2:5] in ("csv", "tsv") else b'{"text": "first"}', *values]) + (
        b"\n" if end else b""
    )
    data = b"[" + data + b"]" if name == "a.json" else data
    same(
        gzip.compress(data)[: -1 if len(values) == 5 else None] if name.endswith("gz") else data,
        name,
        [1 << 20, 1, 7, 64],
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.binary(max_size=300) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from([*NAMES, "a.parquet", "a.arrow", "a.feather", "a.json.zst", "a"]),
)
def test_no_bytes_crash_an_import(data: bytes, name: str) -> None:
    result = read(data, name)
    assert result.report.accepted + result.report.bad_rows == result.report.read


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        JSON
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "prompt",
                    "completion",
                    "chosen",
                    "rejected",
                    "label",
                    "text",
                    "tools",
                    "tags",
                    "conversations",
                    "input",
                    "preferred_output",
                    "non_preferred_output",
                    "instruction",
                    "output",
                    "history",
                    "system",
                ]
            ),
            JSON
            | st.lists(
                st.dictionaries(
                    st.sampled_from(
                        ["role", "content", "from", "value", "weight", "tool_calls", "function_call", "name"]
                    ),
                    st.sampled_from(["user", "assistant", "tool", "human", "gpt", "function_call"]) | JSON,
                ),
                max_size=3,
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_json_crashes_an_import(values: list[Any]) -> None:
    result = read(b"".join(json.dumps(v).encode() + b"\n" for v in values))
    assert result.report.accepted + result.report.bad_rows == result.report.read


@pytest.mark.parametrize("workers", [2])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, workers: int) -> None:
    data = written(
        [Row((), f"x:{i}", kind="text", text=f"document {i % 40}" if i % 7 else " ") for i in range(200)],
        lambda r: {"text": r.text, "extra": 1},
    )
    files = {
        "a.jsonl": data,
        "b.json": b"[" + data.strip().replace(b"\n", b",") + b"]",
        "c.csv": b"text\n" + b"words\n" * 50,
    }
    one, two = (tmp_path / "one", tmp_path / "two")
    one.mkdir(), two.mkdir()
    alone, shared = (
        load(one, files, block=500, max_bad_rows=100),
        load(two, files, block=500, max_bad_rows=100, workers=workers),
    )
    assert alone.bytes == shared.bytes
    assert alone.report.counts == shared.report.counts
