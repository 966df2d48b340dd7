"""The Great Expectations pages: right results, and nothing loaded over a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.curation.expectations import Expectations, build, run_expectations
from ftplatform.data.curation.schema import frame


def rows(count: int) -> list[Row]:
    return [
        Row((Message("user", f"q{i}", False), Message("assistant", "a" * (i + 1))), f"a.jsonl:{i + 1}")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Expectations:
    return run_expectations(frame(rows(30)), tmp_path_factory.mktemp("docs"), "acme-support", min_rows=10)


def test_good_rows_meet_every_expectation(good: Expectations) -> None:
    assert good.success
    assert len(good.results) == 8
    assert all(result["success"] for result in good.results)


def test_a_violation_fails_and_is_counted(tmp_path: Path) -> None:
    twice = [*rows(5), rows(1)[0]]
    result = run_expectations(frame(twice), tmp_path, "acme-support", min_rows=10)
    failed = {(r["expectation"], r["column"]): r["unexpected"] for r in result.results if not r["success"]}
    assert not result.success
    assert failed == {("table_row_count_to_be_between", "(table)"): 0, ("column_values_to_be_unique", "source"): 2}
    assert "2 of 8 expectations fail" in (tmp_path / "index.html").read_text()


def test_the_pages_load_nothing_over_a_network(good: Expectations) -> None:
    pages = [*good.docs.rglob("*.html"), *good.docs.rglob("*.css")]
    assert len(pages) == 3
    for page in pages:
        html = page.read_text()
        assert "<script" not in html
        loads = re.findall(r"<(?:script|link|img|iframe|source|font|object|embed)\b[^>]*>", html)
        assert not [tag for tag in loads if re.search(r"""(?:src|href|data)=["']?(?:https?:)?//""", tag)]
        assert not re.findall(r"""url\(\s*["']?(?:https?:)?//|@import""", html)


def test_every_link_between_the_pages_leads_somewhere(good: Expectations) -> None:
    for page in good.docs.rglob("*.html"):
        for link in re.findall(r'href="([^"#]+)"', page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).resolve().is_file(), (page, link)


@pytest.mark.browser
def test_a_page_is_drawn_without_a_network(good: Expectations, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is missing")
    page = next((good.docs / "validations").rglob("*.html"))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("Table of Contents", "assistant_chars", "Succeeded", "values must be greater than or equal to"):
        assert words in done.stdout


def test_a_datasets_own_expectations_are_judged_beside_the_platforms(tmp_path: Path) -> None:
    own = [
        {"type": "expect_column_values_to_be_between", "column": "assistant_chars", "max_value": 20},
        {"type": "expect_column_values_to_be_in_set", "column": "language", "value_set": [""]},
    ]
    result = run_expectations(frame(rows(30)), tmp_path, "acme-support", 10, own)
    failed = [(r["expectation"], r["column"], r["unexpected"]) for r in result.results if not r["success"]]
    assert len(result.results) == 10
    assert failed == [("column_values_to_be_between", "assistant_chars", 10)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"column": "turns"}, r"expectations\[0\].type is None"),
        ({"type": "expect_column_quantile_values_to_be_between", "column": "turns"}, "accepted is a Great"),
        ({"type": "expect_column_values_to_be_green", "column": "turns"}, "cannot be used"),
        ({"type": "expect_column_values_to_be_between", "colum": "turns"}, "cannot be used"),
    ],
)
def test_an_expectation_that_cannot_be_used_is_named(entry: dict, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        build([entry])


def test_documents_need_no_turns(tmp_path: Path) -> None:
    documents = [Row((), f"a.txt:{i}", kind="text", text="once upon a time") for i in range(12)]
    assert run_expectations(frame(documents), tmp_path, "acme-books", 10).success
