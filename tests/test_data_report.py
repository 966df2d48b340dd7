"""The row report: complete on disk, bounded in memory, readable as a page; advice over whole files; automatic fixes."""

from __future__ import annotations

import json
import pickle
import random
import re
from pathlib import Path

import pytest

from ftplatform.core.rows import Finding, Message, Row
from ftplatform.data.report.advice import Advice
from ftplatform.data.report.problem_examples import EXAMPLES
from ftplatform.data.report.problems import FILE_CODES, TEXTS, finding
from ftplatform.data.report.report import KEPT_ERRORS, KEPT_WARNINGS, FileReport, ReportWriter, RowReport
from ftplatform.data.report.report_html import LEAST_PER_CODE, MOST_FINDINGS, write_html


def write(
    tmp_path: Path, findings: list[Finding], *files: FileReport, bad_allowed: int = 0, least: int = 1
) -> RowReport:
    with ReportWriter(tmp_path / "findings.jsonl", bad_allowed, least) as writer:
        writer.add(findings)
        for file in files or (FileReport("a.jsonl", "data", "openai-chat", 10, 10, 0),):
            writer.file(file)
        return writer.close()


def on_disk(report: RowReport) -> list[dict[str, object]]:
    return [json.loads(line) for line in report.path.read_bytes().splitlines()]


def error(line: int, code: str = "missing_content") -> Finding:
    return finding(code, "a.jsonl", line, "''", "messages[0].content")


def warning(line: int, code: str = "duplicate_row") -> Finding:
    return finding(code, "a.jsonl", line, "the same as line 1", severity="warning")


def test_every_code_has_texts_and_an_example() -> None:
    assert set(EXAMPLES) == set(TEXTS)
    assert set(TEXTS) >= FILE_CODES
    assert [code for code, texts in TEXTS.items() if not all(texts)] == []


def test_the_file_on_disk_is_complete_and_in_order_while_memory_holds_a_part(tmp_path: Path) -> None:
    many = [error(i) if i % 2 else warning(i) for i in range(1, 4001)]
    report = write(tmp_path, [*many, error(4001, "bad_weight")])
    assert [f["line"] for f in on_disk(report)] == list(range(1, 4002))
    assert on_disk(report)[0] == many[0].to_json()
    assert report.counts == {
        ("bad_weight", "error"): 1,
        ("duplicate_row", "warning"): 2000,
        ("missing_content", "error"): 2000,
    }
    assert len(report.findings) == KEPT_ERRORS + KEPT_WARNINGS + 1


def test_what_is_shown_has_errors_first_and_every_code(tmp_path: Path) -> None:
    report = write(
        tmp_path,
        [
            warning(1),
            *map(error, range(2, 2000)),
            error(2000, "invalid_json"),
            finding("empty_file", "b.jsonl", 0, "0 bytes"),
        ],
    )
    shown = [(f.code, f.severity) for f in report.findings]
    assert shown[0] == ("empty_file", "error")
    assert shown[-1] == ("duplicate_row", "warning")
    assert ("invalid_json", "error") in shown
    assert sorted(s for _, s in shown) == [s for _, s in shown]


def test_one_bad_row_refuses_unless_it_is_allowed_and_a_bad_file_always_does(tmp_path: Path) -> None:
    file = FileReport("a.jsonl", "data", "openai-chat", 10, 9, 1)
    refused = write(tmp_path, [error(3), error(3, "bad_weight")], file)
    assert refused.refused
    assert refused.bad_rows == 1
    assert refused.reasons == ("1 of 10 rows are bad, none may be (max_bad_rows: 0).",)
    allowed = write(tmp_path, [error(3)], file, bad_allowed=1)
    assert not allowed.refused
    assert "left out, as max_bad_rows: 1 allows" in allowed.summary()
    cut = write(tmp_path, [error(3, "truncated_file")], file, bad_allowed=5)
    assert cut.refused
    assert "upload the whole file again" in cut.reasons[0]


def test_a_warning_about_a_whole_file_refuses_nothing(tmp_path: Path) -> None:
    assert not write(tmp_path, [finding("common_prefix", "a.jsonl", 0, "every answer", severity="warning")]).refused


def test_more_bad_files_than_are_kept_still_refuse_and_are_counted(tmp_path: Path) -> None:
    report = write(tmp_path, [finding("empty_file", f"{i}.jsonl", 0, "0 bytes") for i in range(KEPT_ERRORS + 7)])
    assert report.refused
    assert report.whole_errors == KEPT_ERRORS + 7
    assert report.reasons[-1] == "7 more files have problems of that kind."


def test_too_few_rows_refuse_and_few_are_advised_about(tmp_path: Path) -> None:
    def rows(number: int, least: int) -> RowReport:
        return write(tmp_path, [], FileReport("a.jsonl", "data", "csv", number, number, 0), least=least)

    assert rows(9, 10).refused
    assert rows(10, 10).counts == {("too_few_examples", "warning"): 1}
    assert rows(50, 10).counts == {}
    assert rows(3, 3).counts == {}, "who lowers min_rows knows"
    own = FileReport("t.jsonl", "test", "csv", 90, 90, 0)
    assert write(tmp_path, [], own, least=10).refused, "test rows are nothing to learn from"


def test_summary_and_markdown_say_the_counts_and_the_first_problem(tmp_path: Path) -> None:
    report = write(
        tmp_path,
        [*map(error, range(1, 40)), warning(50)],
        FileReport("a.jsonl", "data", "openai-chat", 100, 61, 39),
        FileReport("v.jsonl", "validation", "openai-chat", 5, 5, 0),
    )
    assert "Problems: missing_content (39)." in report.summary()
    assert "5 of the accepted rows are your own validation set." in report.summary()
    assert "First: a.jsonl line 1 at messages[0].content" in report.summary()
    table = report.markdown()
    assert "| missing_content | error | 39 |" in table
    assert table.endswith("20 more in the report file.")


def test_a_file_name_cannot_break_a_line_or_the_writer(tmp_path: Path) -> None:
    report = write(tmp_path, [finding("empty_file", "a\n\x1b[2J\udcff.jsonl", 0, "0 bytes")])
    assert on_disk(report)[0]["file"] == "a\\x0a\\x1b[2J\\xdcff.jsonl"


def test_the_page_shows_findings_escaped_and_loads_nothing(tmp_path: Path) -> None:
    evil = finding("missing_content", "<b>.jsonl", 3, "<script>alert(1)</script>", "</td><img src=x>")
    report = write(tmp_path, [evil], FileReport("<b>.jsonl", "data", "openai-chat", 10, 9, 1, "<i>"))
    write_html(report, tmp_path / "page.html", "Report of <acme>")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script>") == 1, "the page's own"
    for tag in ("<b>.jsonl", "<img", "<i>", "<acme>"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert re.search(r"<[^>]*\b(src|href)=|https?://|url\(|@import", page) is None
    assert "default-src 'none'" in page
    assert "Refused" in page


def test_the_script_of_the_page_is_the_one_its_policy_allows(tmp_path: Path) -> None:
    import base64
    import hashlib

    write_html(write(tmp_path, [error(1)]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    script = page.split("<script>")[1].split("</script>")[0]
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in page


def test_a_page_of_many_findings_is_capped_and_says_where_all_are(tmp_path: Path) -> None:
    report = write(tmp_path, [*map(error, range(MOST_FINDINGS + 100)), *(error(i, "bad_weight") for i in range(30))])
    write_html(report, tmp_path / "page.html", complete="all.jsonl")
    page = (tmp_path / "page.html").read_text()
    assert page.count('data-code="missing_content"><td>') == MOST_FINDINGS
    assert page.count('data-code="bad_weight"><td>') == LEAST_PER_CODE
    assert "5,020 of 5,130 findings are on this page" in page
    assert "all.jsonl" in page


def test_a_page_without_findings_is_accepted(tmp_path: Path) -> None:
    write_html(write(tmp_path, []), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Accepted" in page
    assert 'id="findings"' not in page


def row(line: int, question: str = "", answer: str = "", **more: object) -> Row:
    turns = (Message("user", question or f"Question {line}"), Message("assistant", answer or f"{line} is the answer"))
    return Row(turns, f"a.jsonl:{line}", **more)  # type: ignore[arg-type]


def advice(rows: list[Row]) -> list[tuple[str, int]]:
    collected = Advice()
    collected.add(rows)
    found = list(collected.findings("a.jsonl"))
    assert all(f.severity == "warning" for f in found)
    return [(f.code, f.line) for f in found]


def varied(number: int) -> list[Row]:
    words = ["apple", "brick", "cloud", "delta", "eagle", "frost", "grape", "house", "igloo", "joker"]
    return [row(i, f"{words[i % 10]} {i}?", f"{words[i * 7 % 10]} {i}.") for i in range(1, number + 1)]


def test_varied_rows_need_no_advice() -> None:
    assert advice(varied(20)) == []


def test_repeated_rows_are_named_with_the_first_of_their_kind() -> None:
    rows = varied(6)
    rows.append(row(90, rows[2].messages[0].content, rows[2].messages[1].content))
    rows.append(row(91, rows[2].messages[0].content, "another answer"))
    collected = Advice()
    collected.add(rows)
    (found,) = collected.findings("a.jsonl")
    assert (found.code, found.line, found.found) == ("duplicate_row", 90, "the same as line 3")


def test_a_shared_beginning_or_end_is_named_for_prompts_and_answers() -> None:
    rows = [row(i, f"Classify this mail: {chr(96 + i)}", f"{chr(96 + i)} -- End of answer") for i in range(1, 8)]
    collected = Advice()
    collected.add(rows)
    found = {f.code: f.found for f in collected.findings("a.jsonl")}
    assert found == {
        "common_prefix": "every prompt begins with Classify this mail:",
        "common_suffix": "every answer ends with -- End of answer",
    }


def test_one_prompt_for_all_rows_is_said_once() -> None:
    rows = [row(i, "The same question", f"{chr(96 + i)}.") for i in range(1, 8)]
    assert advice(rows) == [("all_prompts_identical", 0)]


def test_four_rows_that_begin_alike_prove_nothing() -> None:
    assert advice([row(i, f"Classify this mail: {i}", f"{i} x") for i in range(1, 5)]) == []


def test_long_rows_and_turns_without_text_are_counted_at_their_worst_or_first() -> None:
    rows = varied(8)
    rows[3] = row(4, "x" * 11_000)
    rows[5] = row(6, "y" * 30_000)
    system = Message("system", " ")
    rows[6] = Row((system, *rows[6].messages), rows[6].source)
    assert advice(rows) == [("long_row", 6), ("empty_field", 7)]


def test_a_long_document_is_no_long_row() -> None:
    rows = [Row((), f"a.txt:{i}", kind="text", text=f"{i} {'z' * 20_000}") for i in range(1, 3)]
    assert advice(rows) == []


def test_a_call_without_text_is_no_empty_field() -> None:
    from ftplatform.core.rows import ToolCall

    call = Message("assistant", "", tool_calls=(ToolCall("1", "find", "{}"),))
    assert advice([Row((Message("user", "Where?"), call), "a.jsonl:1")]) == []


@pytest.mark.parametrize("seed", range(5))
def test_advice_of_parts_put_together_is_that_of_the_whole(seed: int) -> None:
    chance = random.Random(seed)
    rows = [
        row(i, "Hello there, dear " + chance.choice("abc"), chance.choice("xy") * chance.choice((1, 9000)))
        for i in range(30)
    ]
    whole, merged = Advice(), Advice()
    whole.add(rows)
    at = 0
    while at < len(rows):
        size = chance.randrange(1, 9)
        part = Advice()
        part.add(rows[at : at + size])
        merged.merge(pickle.loads(pickle.dumps(part)))
        at += size
    assert list(merged.findings("a")) == list(whole.findings("a"))
    assert {f.code for f in whole.findings("a")} >= {"common_prefix", "duplicate_row"}
