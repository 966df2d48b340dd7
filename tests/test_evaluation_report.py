"""From scores in the store to a report with its verdict, and what people see of it."""

from __future__ import annotations

import struct

import pytest

from ftplatform.core.errors import NotFound, PayloadFailed
from ftplatform.core.manifests import EvalReport, SuiteScore
from ftplatform.core.payload import StoreAddress
from ftplatform.core.rows import Message, Row
from ftplatform.evaluation.report import build_report
from ftplatform.evaluation.report_view import forest_plot, score_table, slice_table
from ftplatform.evaluation.suite_files import publish_heldout, suite_items
from ftplatform.store import open_store

ROWS = [
    Row(
        (Message("user", f"q{i}"), Message("assistant", "a")),
        f"f:{i}",
        {"tone": "warm" if i % 4 else "cold", "id": str(i)},
    )
    for i in range(400)
]


@pytest.fixture
def store(tmp_path):
    return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))


@pytest.fixture
def heldout(store):
    return publish_heldout(store, ROWS, 8)


def scored(store, suite, right) -> dict[str, SuiteScore]:
    items = [{"id": item.id, "score": int(bool(right(i)))} for i, item in enumerate(suite_items(store, suite.spec))]
    mean = sum(item["score"] for item in items) / len(items)
    digest = store.put_json({"suite": "heldout", "n": len(items), "score": mean, "items": items})
    return {"heldout": SuiteScore(suite="heldout", n=len(items), score=mean, items=digest)}


def report(store, suite, **models) -> EvalReport:
    scores = {name: scored(store, suite, right) for name, right in models.items()}
    return build_report(store, adapter="f" * 64, dataset="acme/support", suites=[suite.pinned({})], scores=scores)


def test_a_candidate_that_learned_is_promoted_and_its_slices_are_shown(store, heldout):
    made = report(store, heldout, base=lambda i: i % 2, candidate=lambda i: i % 10)
    assert made.verdict == "promote"
    assert [c.reference for c in made.comparisons] == ["base"]
    assert made.slices["heldout/tone=cold"] == {"base": 0.0, "candidate": 0.8}
    assert set(made.slices) == {"heldout/tone=cold", "heldout/tone=warm"}, (
        "a value of fewer than five items is no slice"
    )


def test_better_than_the_base_but_worse_than_the_champion_is_quarantined(store, heldout):
    made = report(store, heldout, base=lambda i: i % 2, champion=lambda i: i % 10, candidate=lambda i: i % 4)
    assert made.verdict == "quarantine"
    assert [(c.reference, c.outcome) for c in made.comparisons] == [
        ("base", "non-inferior"),
        ("champion", "regression"),
    ]
    assert made.reasons[0].startswith("heldout against champion: 75.0% after 90.0% on 400 items")


def test_the_bytes_of_the_champion_pass_against_the_champion(store, heldout):
    made = report(store, heldout, base=lambda i: i % 2, champion=lambda i: i % 10, candidate=lambda i: i % 10)
    assert made.verdict == "promote"
    assert made.comparisons[1].discordant == 0


def test_a_report_is_the_same_for_the_same_scores(store, heldout):
    models = {"base": lambda i: i % 2, "candidate": lambda i: i % 3}
    assert report(store, heldout, **models).content_digest == report(store, heldout, **models).content_digest


def test_scores_of_other_items_or_no_scores_are_an_error(store, heldout):
    other = publish_heldout(store, ROWS[:399], 8)
    scores = {"base": scored(store, other, lambda i: 1), "candidate": scored(store, other, lambda i: 1)}
    with pytest.raises(PayloadFailed, match="pinned by the plan"):
        build_report(store, adapter="f" * 64, dataset="acme/support", suites=[heldout.pinned({})], scores=scores)
    with pytest.raises(NotFound, match="candidate on heldout"):
        report(store, heldout, base=lambda i: 1)


def test_the_table_and_the_picture_tell_the_outcome(store, heldout):
    made = report(store, heldout, base=lambda i: i % 2, champion=lambda i: i % 10, candidate=lambda i: i % 4)
    lines = score_table(made).splitlines()
    assert len(lines) == 4
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "| heldout | 400 | 50.0% | 90.0% | 75.0% | champion | -15.0 |" in lines[3]
    assert "**regression**" in lines[3]
    assert "| heldout/tone=cold | 0.0% | 80.0% | 0.0% |" in slice_table(made)
    png = forest_plot(made)
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert width > 600
    assert height > 150
    assert png == forest_plot(made)
