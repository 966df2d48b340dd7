"""``ft dataset check``: exit codes, the JSON object, diffs, fixes and pages, without a platform's home."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ftplatform.cli import app
from ftplatform.core.dataset_config import parse_dataset_config
from ftplatform.data.importing.ingest import ingest
from ftplatform.data.report.check import check_files
from ftplatform.data.report.problem_examples import EXAMPLES
from ftplatform.data.report.problems import finding
from ftplatform.data.report.report import FileReport, ReportWriter

WORDS = "apple brick cloud delta eagle frost grape house igloo joker".split()  # noqa: SIM905


def chat(question: str, answer: str, **extra: Any) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, **extra})


def rows(number: int) -> list[str]:
    """Rows that need no word: 50 or more, none beginning or ending like another."""
    return [
        chat(f"{WORDS[i % 10]} {i} where is the parcel that I ordered {WORDS[i // 10]}", f"{WORDS[i * 3 % 10]} {i}.")
        for i in range(number)
    ]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be made: the command must do without."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTPLATFORM_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.chdir(tmp_path)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dataset", "check", *arguments])


def put(name: str, *lines: str) -> str:
    Path(name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return name


def parsed(result: Result) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_a_good_file_is_accepted_with_exit_code_0() -> None:
    result = check(put("a.jsonl", *rows(60)))
    assert result.exit_code == 0, result.output
    assert "ACCEPTED" in result.stdout
    assert "openai-chat" in result.stdout
    assert not list(Path().glob("*.fixed"))


def test_one_bad_row_refuses_with_exit_code_1_and_is_shown_with_place_and_fix() -> None:
    result = check(put("a.jsonl", *rows(60), chat("", "x")))
    assert result.exit_code == 1
    assert "REFUSED" in result.stdout
    assert "a.jsonl:61  messages[0].content  missing_content" in result.stdout
    assert "write the text or remove the example" in result.stdout


def test_a_tolerated_bad_row_is_warned_about_with_exit_code_0() -> None:
    Path("dataset.yaml").write_text("max_bad_rows: 1\n")
    result = check(put("a.jsonl", *rows(60), chat("", "x")), "dataset.yaml")
    assert result.exit_code == 0
    assert "The 1 bad rows will be left out, as max_bad_rows: 1 allows." in result.stdout


def test_the_json_object_has_the_agreed_keys_and_nothing_else() -> None:
    extra = [
        chat("Where is it?", "Write to anna.keller@example.com"),
        chat("where is it? ", "write TO anna.keller@example.com"),
    ]
    result = check(put("a.jsonl", *rows(60), *extra, chat("", "x")), "--json")
    assert result.exit_code == 1
    value = parsed(result)
    assert list(value) == ["format", "rows", "accepted", "findings", "pii", "duplicates", "languages"]
    assert (value["format"], value["rows"], value["accepted"], value["duplicates"]) == ("openai-chat", 63, 62, 1)
    assert value["pii"] == {"EMAIL_ADDRESS": 2}
    assert sum(value["languages"].values()) == 62
    (found,) = value["findings"]
    assert set(found) == {"code", "severity", "file", "line", "path", "found", "accepted", "fix"}
    assert (found["code"], found["line"], found["path"]) == ("missing_content", 63, "messages[0].content")


def test_json_without_findings_is_json() -> None:
    assert parsed(check(put("a.jsonl", *rows(60)), "--json"))["findings"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing.jsonl"],
        [],
        ["a.jsonl", "--format", "parquet"],
        ["a.jsonl", "--no-such-option"],
        ["a.jsonl", "--config", "bad.yaml"],
        ["a.jsonl", "--config", "broken.yaml"],
        ["a.jsonl", "sub/a.jsonl"],
        ["a.jsonl", "--output", "b.jsonl"],
        ["a.jsonl", "--json", "--diff"],
        ["a.parquet", "--diff"],
        ["dataset.yaml"],
    ],
    ids=lambda a: " ".join(a) or "nothing",
)
def test_wrong_usage_ends_with_exit_code_2(arguments: list[str]) -> None:
    Path("sub").mkdir()
    for name in ("a.jsonl", "sub/a.jsonl", "a.parquet"):
        put(name, *rows(60))
    Path("bad.yaml").write_text("max_bad_row: 1\n")
    Path("broken.yaml").write_text("a: [\n")
    Path("dataset.yaml").write_text("min_rows: 1\n")
    assert check(*arguments).exit_code == 2


def test_a_failure_of_the_check_itself_is_not_taken_for_refused_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ftplatform.cli.dataset_check.check_files", full)
    result = check(put("a.jsonl", *rows(60)))
    assert result.exit_code == 3
    assert "no space left" in result.stderr


def test_an_entity_that_does_not_exist_is_wrong_usage() -> None:
    Path("dataset.yaml").write_text("pii: {allow: [PHONE]}\n")
    result = check(put("a.jsonl", *rows(60)), "dataset.yaml")
    assert result.exit_code == 2
    assert "PHONE" in result.stderr


@pytest.mark.parametrize("pattern", ["(?=a)b", "((a{1,500}){1,500}){1,500}"])
def test_a_pattern_that_curation_would_refuse_is_wrong_usage_already_here(pattern: str) -> None:
    Path("dataset.yaml").write_text(
        json.dumps({"tagging": {"rules": [{"tag": "t", "value": "v", "pattern": pattern}]}})
    )
    result = check(put("a.jsonl", *rows(60)), "dataset.yaml")
    assert result.exit_code == 2
    assert "tagging.rules" in result.stderr


def test_the_format_can_be_given_instead_of_recognised() -> None:
    name = put("a.jsonl", *('{"prompt": "%s?", "completion": "%s."}' % (w, w) for w in WORDS))  # noqa: UP031
    assert parsed(check(name, "--json"))["format"] == "prompt-completion"
    result = check(name, "--json", "--format", "alpaca")
    assert result.exit_code == 1
    assert parsed(result)["format"] in ("", "alpaca")


def test_a_diff_changes_nothing_and_goes_alone_to_standard_output() -> None:
    bad = chat("Q", "A").replace('"user"', '"human"')
    name = put("a.jsonl", *rows(60), bad)
    before = Path(name).read_bytes()
    result = check(name, "--diff")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:2] == ["--- a.jsonl", "+++ a.jsonl.fixed"]
    assert result.stdout.splitlines()[-2:] == ["-" + bad, "+" + chat("Q", "A")]
    assert "Refused" in result.stderr
    assert [path.name for path in Path().glob("a.*")] == ["a.jsonl"]
    assert Path(name).read_bytes() == before


def test_fixes_are_written_beside_the_file_and_checked_again() -> None:
    name = put("a.jsonl", *rows(60), chat("Q", "A").replace('"user"', '"human"'))
    before = Path(name).read_bytes()
    result = check(name, "--fix")
    assert result.exit_code == 1, "the verdict is on the file as it is"
    assert "1  role renamed to user or assistant" in result.stdout
    assert "then: Accepted: 61 rows" in result.stdout
    assert Path(name).read_bytes() == before
    again = check(name, "--fix")
    assert again.exit_code == 2
    assert check(name, "--fix", "--output", "b.jsonl").exit_code == 1
    assert check("b.jsonl").exit_code == 0
    assert Path("b.jsonl").read_bytes() == Path("a.jsonl.fixed").read_bytes()


def test_the_page_and_the_complete_list_are_written() -> None:
    result = check(put("a.jsonl", *rows(60), *[chat("", "x")] * 30), "--html", "r.html", "--findings", "f.jsonl")
    assert "10 more" in result.stdout
    assert len(Path("f.jsonl").read_text().splitlines()) == 30
    page = Path("r.html").read_text()
    assert page.count('data-code="missing_content"><td>') == 30
    assert "f.jsonl" in page


def test_a_file_of_hostile_content_is_reported_and_not_obeyed() -> None:
    hostile = [chat("[bold red]markup[/] \x1b[2J", "<|im_end|>[/INST]"), "[" * 10_000, "x" * 1000, chat("\ud800", "A")]
    Path("a.jsonl").write_bytes(b"".join(line.encode() + b"\n" for line in [*rows(60), *hostile]))
    result = check("a.jsonl", "--html", "r.html")
    assert result.exit_code == 1, result.output
    assert "\x1b[2J" not in result.stdout
    assert "<|im_end|>" in result.stdout


def test_several_workers_find_the_same(tmp_path: Path) -> None:
    Path("a.jsonl").write_text("\n".join(rows(100)) + "\n" + chat("", "x") + "\n")
    files, config = [("a.jsonl", Path("a.jsonl"))], parse_dataset_config({})
    one, two = (check_files(files, config, tmp_path / str(n), workers=n) for n in (1, 2))
    assert (one.pii, one.duplicates, one.languages) == (two.pii, two.duplicates, two.languages)
    assert one.report.path.read_bytes() == two.report.path.read_bytes()


def test_the_report_of_an_upload_counts_all_findings_and_shows_errors_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [finding("duplicate_row", "a.jsonl", i, "the same as line 1", severity="warning") for i in range(2, 50)]
    with ReportWriter(Path("f.jsonl"), 0, 1) as writer:
        writer.add([*found, finding("missing_content", "a.jsonl", 60, "[/red]")])
        writer.file(FileReport("a.jsonl", "data", "openai-chat", 60, 59, 1))
        writer.close()
    row = {"seq": 3, "state": "refused", "message": "Refused.", "report": "f"}
    parts = SimpleNamespace(
        catalog=SimpleNamespace(datasets=SimpleNamespace(get_upload=lambda *_: row)),
        store=SimpleNamespace(path=lambda _: Path("f.jsonl")),
    )
    monkeypatch.setattr("ftplatform.cli.dataset_report.open_parts", lambda: parts)
    result = CliRunner().invoke(app, ["dataset", "report", "acme/support", "--limit", "2", "--output", "all.jsonl"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["1", "error", "missing_content"] in lines
    assert ["48", "warning", "duplicate_row"] in lines
    assert [line[:2] for line in lines if line and line[0] in ("error", "warning")] == [
        ["error", "a.jsonl:60"],
        ["warning", "a.jsonl:2"],
    ]
    assert len(Path("all.jsonl").read_text().splitlines()) == 49


CHECKED = [code for code, example in EXAMPLES.items() if example.name]


@pytest.mark.parametrize("code", CHECKED)
def test_the_example_of_a_code_brings_it_about_and_the_better_one_does_not(code: str, tmp_path: Path) -> None:
    example = EXAMPLES[code]
    config = parse_dataset_config({"min_rows": 1})

    def codes(text: str, encoding: str) -> dict[str, str]:
        (tmp_path / example.name).write_bytes(text.encode(encoding))
        report = ingest([(example.name, tmp_path / example.name)], config, tmp_path / "out").report
        return {found: severity for found, severity in report.counts if found != "too_few_examples"}

    found = codes(example.bad, example.encoding)
    assert code in found
    assert [other for other, severity in found.items() if severity == "error" and other != code] == []
    assert codes(example.good, "utf-8") == {}
