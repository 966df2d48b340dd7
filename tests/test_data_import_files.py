"""Containers and compression give the same rows; what cannot be read is a finding, never a crash."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from import_support import Loaded, load

from ftplatform.data.importing import containers, documents, lines

ROWS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"añ {i}"}]} for i in range(30)
]


def jsonl(values: list[Any] = ROWS) -> bytes:
    return b"".join(json.dumps(v, ensure_ascii=False).encode() + b"\n" for v in values)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def table_bytes(table: pa.Table, kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, out, row_group_size=7)
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def errors(result: Loaded) -> list[tuple[str, int]]:
    return [(f.code, f.line) for f in result.findings if f.severity == "error"]


TABLE = pa.Table.from_pylist(ROWS)
SAME = {
    "a.jsonl": jsonl(),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(),
    "a.ndjson": jsonl(),
    "lines.json": jsonl(),
    "a.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS[:10])) + gzip.compress(jsonl(ROWS[10:])),
    "a.jsonl.zst": zstd(jsonl(ROWS[:10])) + zstd(jsonl(ROWS[10:])),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "hidden.jsonl": gzip.compress(jsonl()),
    "a.parquet": table_bytes(TABLE, "parquet"),
    "a.arrow": table_bytes(TABLE, "arrow"),
    "stream.arrow": table_bytes(TABLE, "stream"),
    "a.feather": table_bytes(TABLE, "arrow"),
}


@pytest.mark.parametrize("name", SAME)
def test_every_container_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    result = load(tmp_path, {name: SAME[name]})
    assert errors(result) == []
    assert result.report.format == "openai-chat"
    assert [row.messages[1].content for row in result.rows] == [f"añ {i}" for i in range(30)]
    assert {row.source.partition(":")[0] for row in result.rows} == {name}


def test_the_report_says_what_a_file_was_recognised_by(tmp_path: Path) -> None:
    result = load(tmp_path, {name: SAME[name] for name in ("a.jsonl.gz", "a.parquet")})
    assert [f.detected_by for f in result.report.files] == ["line 1 has messages, gzip", "columns messages"]


def test_tables_by_the_same_names_as_json_keys(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["Q", "R"], "chosen": ["a", "b"], "rejected": ["c", "d"]})
    kinds = {
        "a.parquet": table_bytes(table, "parquet"),
        "b.tsv": b"prompt\tcompletion\tlabel\nQ\tA\ttrue\n",
        "c.csv": b"text\nsome words\n",
    }
    result = load(tmp_path, kinds)
    assert [f.format for f in result.report.files] == ["preference", "kto", "text"]
    assert [row.kind for row in result.rows] == ["preference", "preference", "labelled", "text"]


def test_nulls_of_a_struct_column_are_absent_keys(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "x", "tool_call_id": "c"},
                {"role": "assistant", "content": "B"},
            ]
        },
    ]
    keys = {key for row in rows for m in row["messages"] for key in m}
    table = pa.Table.from_pylist(
        [{"messages": [{k: m.get(k) for k in sorted(keys)} for m in r["messages"]]} for r in rows]
    )
    result = load(tmp_path, {"a.parquet": table_bytes(table, "parquet")})
    assert result.findings == []
    assert result.rows[1].messages[1].tool_calls[0].name == "f"


def test_a_text_that_is_not_utf8_costs_its_own_row_of_a_parquet_file(tmp_path: Path) -> None:
    text = pa.array([b"fine", b"caf\xe9", b"good"]).view(pa.string())
    result = load(tmp_path, {"a.parquet": table_bytes(pa.table({"text": text}), "parquet")}, max_bad_rows=1)
    assert errors(result) == [("not_utf8", 2)]
    assert [row.text for row in result.rows] == ["fine", "good"]


ARRAYS = [
    (b'[{"text": "a"},\n{"text": "b"},\n]', [("invalid_json", 2)], 2),
    (b'[{"text": "a"},,{"text": "b"}]', [("invalid_json", 1)], 2),
    (b'[{"text": "c"},{"text": "a"}\n{"text": "b"}]', [("invalid_json", 1)], 1),
    (b'[{"text": "a"},\n{"text": nul},\n{"text": "]}"}]', [("invalid_json", 2)], 2),
    (b'[{"text": "a"},\n3]', [("data_type", 2)], 1),
    (b'[{"text": "a"},\n{"text": "b"', [("truncated_file", 2)], 1),
    (b'[{"text": "a"},\n{"text": "b]', [("truncated_file", 2)], 1),
    (b'[{"text": "a"},\n{"text": ["b"}]}, {"text": "c"}]', [("damaged_file", 2)], 1),
    (b'[{"text": "a"}] x', [("damaged_file", 2)], 1),
    (b'[{"text": "a"}}]', [("damaged_file", 0)], 0),
    (b"[]", [("empty_file", 0)], 0),
    (b"[", [("truncated_file", 0)], 0),
]


@pytest.mark.parametrize(("data", "expected", "accepted"), ARRAYS)
@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_a_broken_list_is_reported_where_it_breaks(
    tmp_path: Path, data: bytes, expected: list[tuple[str, int]], accepted: int, block: int
) -> None:
    result = load(tmp_path, {"a.json": data}, block=block, min_rows=1)
    assert [e for e in errors(result) if e[0] != "too_few_examples"] == expected
    assert len(result.rows) == accepted


def test_compressed_data_that_is_cut_or_broken_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(jsonl())
    for data, code in (
        (packed[:-9], "truncated_file"),
        (packed + b"garbage", "damaged_file"),
        (zstd(jsonl())[:-3], "truncated_file"),
        (gzip.compress(packed), "unknown_format"),
    ):
        result = load(tmp_path, {"a.jsonl.gz" if data[:1] == b"\x1f" else "a.jsonl.zst": data})
        assert code in [f.code for f in result.findings]
        assert result.report.refused


def test_a_decompression_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "RATIO_FROM", 1 << 20)
    for name, data in (("a.jsonl.gz", gzip.compress(b" " * (1 << 23))), ("a.jsonl.zst", zstd(b"\n" * (1 << 23)))):
        assert ("decompression_bomb", 0) in errors(load(tmp_path, {name: data}))
    monkeypatch.setattr(containers, "RATIO_FROM", 1 << 40)
    monkeypatch.setattr(containers, "LARGEST_UNPACKED", 1 << 16)
    assert errors(load(tmp_path, {"a.jsonl.gz": gzip.compress(jsonl() * 100)}))[0][0] == "decompression_bomb"


def test_a_parquet_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftplatform.data.importing import columnar

    monkeypatch.setattr(columnar, "RATIO_FROM", 1 << 10)
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["x" * 2_000_000]}), out, compression="zstd", use_dictionary=False)
    assert ("decompression_bomb", 1) in errors(load(tmp_path, {"a.parquet": out.getvalue()}))


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_line_too_long_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    monkeypatch.setattr("ftplatform.data.importing.json_values.LONGEST_LINE", 1000)
    monkeypatch.setattr("ftplatform.data.importing.delimited.LONGEST_LINE", 1000)
    long = json.dumps({"text": "x" * 2000}).encode()
    data = b'{"text": "a"}\n' + long + b'\n{"text": "b"}\n' + long
    result = load(
        tmp_path, {"a.jsonl": data, "b.csv": b'text\na\n"' + b"x" * 3000 + b'"\nb\n"open' + b"\nx" * 900}, block=block
    )
    assert errors(result)[:2] == [("line_too_long", 2), ("line_too_long", 4)]
    assert [row.source for row in result.rows][:4] == ["a.jsonl:1", "a.jsonl:3", "b.csv:2", "b.csv:4"]
    assert ("line_too_long", 3) in errors(result)
    array = load(tmp_path, {"a.json": b'[{"text": "a"},' + long + b',{"text": "b"}]'}, block=block, max_bad_rows=9)
    assert errors(array) == [("line_too_long", 0)]
    assert array.report.refused


def test_a_fifty_megabyte_line_and_ten_thousand_levels_are_findings(tmp_path: Path) -> None:
    data = b'{"text": "a"}\n{"text": "' + b"x" * 50_000_000 + b'"}\n{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n"
    result = load(tmp_path, {"a.jsonl": data})
    assert errors(result) == [("line_too_long", 2), ("nested_too_deeply", 3)]
    assert "50,000,012" in result.findings[0].found
    assert len(result.rows) == 1


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"prompt": "a", "prompt": "b"}', "duplicate_key"),
        (b'{"prompt" : "a", "n": {"x": 1, "x": 2}}', "duplicate_key"),
        (b'{"prompt": "a", "n": NaN}', "invalid_json"),
        (b'{"prompt": "a", "n": -Infinity}', "invalid_json"),
        (b'{"prompt": "a", "n": 1e400}', "number_out_of_range"),
        (b'{"prompt": "a", "n": ' + b"[" * 200 + b"]" * 200 + b"}", "nested_too_deeply"),
        (b'{"prompt": "a", "\\ud800": 1}', "data_type"),
        (b'{"prompt": "a", "n": "\\udfff"}', "not_utf8"),
        (b'{"prompt": "a\0"}', "invalid_json"),
        (b'{"prompt": "a\\u0000"}', "control_character"),
        (b"\xc2\xa0", "invalid_json"),
    ],
)
def test_json_that_other_parsers_let_through_is_reported(tmp_path: Path, raw: bytes, code: str) -> None:
    result = load(tmp_path, {"a.jsonl": b'{"prompt": "a \\": b"}\n' + raw + b"\n"})
    assert (code, 2) in [e for e in errors(result) if e[1] == 2]
    assert len(result.rows) == 1


def test_a_text_file_is_one_document_cut_between_paragraphs_when_long(tmp_path: Path) -> None:
    whole = load(tmp_path, {"a.md": b"\xef\xbb\xbf\n\n# Title\n\nSome text.\n"})
    assert [(row.text, row.source, row.kind) for row in whole.rows] == [("# Title\n\nSome text.", "a.md:3", "text")]
    paragraph = "word " * 1999 + "end.\n\n"
    long = load(tmp_path, {"a.txt": (paragraph * 25).encode()})
    assert "".join(row.text for row in long.rows).count("end.") == 25
    assert all(row.text.endswith("end.") and len(row.text) <= documents.LONGEST_DOCUMENT for row in long.rows)
    assert len(long.rows) == 3
    unbroken = load(tmp_path, {"a.txt": b"x" * 250_000})
    assert [len(row.text) for row in unbroken.rows] == [100_000, 100_000, 50_000]
    bad = load(tmp_path, {"a.txt": b"fine\ncaf\xe9\n"})
    assert errors(bad)[0][0] == "not_utf8"


@pytest.mark.parametrize(
    "name", ["../a.jsonl", "/etc/a.jsonl", "a\\b.jsonl", "C:a.jsonl", "a\0.jsonl", "a\n.jsonl", "x" * 300, "a//b", ""]
)
def test_a_name_that_plays_tricks_is_refused(tmp_path: Path, name: str) -> None:
    result = load(tmp_path, {name: jsonl()})
    assert result.findings[0].code == "unsafe_file_name"
    assert result.report.refused
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["0", "canonical.jsonl", "findings.jsonl"]


def test_own_validation_files_go_into_a_file_of_their_own(tmp_path: Path) -> None:
    files = {"train.jsonl": jsonl(ROWS[:3]), "val.jsonl": jsonl(ROWS[3:5]), "test.jsonl": jsonl(ROWS[5:6])}
    result = load(tmp_path, files, split={"validation_files": ["val.jsonl"], "test_files": ["test.jsonl"]})
    assert (len(result.rows), len(result.validation_rows), len(result.test_rows)) == (3, 2, 1)
    both = load(tmp_path, files, split={"validation_files": ["val.jsonl"], "test_files": ["val.jsonl"]})
    assert both.report.refused


def test_a_row_with_a_million_problems_does_not_list_them_all(tmp_path: Path) -> None:
    result = load(tmp_path, {"a.jsonl": jsonl([*ROWS, {"messages": [{}] * 1000}])})
    assert 10 < sum(f.line == 31 for f in result.findings) <= 50
    assert "more problems" in result.findings[-1].found or any("more problems" in f.found for f in result.findings)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_damaged_table_is_a_finding(tmp_path: Path, kind: str) -> None:
    whole = table_bytes(TABLE, kind)
    result = load(tmp_path, {f"a.{kind}": whole[: len(whole) // 2]})
    assert "damaged_file" in [code for code, _ in errors(result)]
    assert result.report.refused
    for start in range(0, len(whole), 97):  # whatever it finds, it ends
        load(tmp_path, {f"a.{kind}": whole[:start] + b"\xff" * 9 + whole[start + 9 :]})


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf", b"\nprompt,completion\nQ,A\n", b",,\n"])
def test_a_table_without_a_header_is_told_so(tmp_path: Path, data: bytes) -> None:
    result = load(tmp_path, {"a.csv": data})
    assert result.findings[0].code == "missing_column"
    assert "without column names" in result.findings[0].found
