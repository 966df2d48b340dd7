"""Curation: duplicates, evaluation questions and leaks go; the checks look at the result itself."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.dataset_config import DatasetConfig, parse_dataset_config
from ftplatform.core.errors import PayloadFailed
from ftplatform.core.rows import Message, Row
from ftplatform.data.blocks import read_rows, write_rows
from ftplatform.data.curation.curate import Accepted, Curated, Surroundings, curate
from ftplatform.data.curation.erasure import changes, look_up, subject_key
from ftplatform.data.curation.schema import check_schema, frame
from ftplatform.data.text import normalise
from ftplatform.data.workers import RayCluster, Workers, map_ordered


def row(*turns: str, source: str = "a.jsonl:1", system: str | None = None, tags: dict[str, str] | None = None) -> Row:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text, i % 2 == 1) for i, text in enumerate(turns)]
    return Row((*([Message("system", system, False)] if system else []), *messages), source, tags or {})


THINGS = ("parcel", "invoice", "password", "router", "garden", "violin", "harbour", "lantern")


def many(count: int, start: int = 0) -> list[Row]:
    """Rows that share no passage: near duplicates have tests of their own."""
    return [
        row(f"question {i} on {THINGS[i % 8]} number {i * 7919}", f"answer {i}", source=f"a.jsonl:{i + 1}")
        for i in range(start, start + count)
    ]


@dataclass
class Result:
    curated: Curated
    splits: dict[str, list[Row]]
    folder: Path

    def check(self, name: str) -> CheckResult:
        return next(c for c in self.curated.checks if c.name == name)

    @property
    def blocking(self) -> list[str]:
        return [c.name for c in blocking(self.curated.checks)]


class Curator:
    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0

    def __call__(
        self,
        rows: list[Row],
        config: dict[str, Any] | None = None,
        *,
        test: list[Row] | None = None,
        validation: list[Row] | None = None,
        prompts: tuple[str, ...] = (),
        earlier: list[Row] | None = None,
        secret: bytes = bytes(32),
        workers: Workers = 1,
    ) -> Result:
        self.runs += 1
        folder = self.folder / str(self.runs)
        folder.mkdir()

        def written(name: str, part: list[Row] | None) -> Path | None:
            if part is None:
                return None
            write_rows(folder / name, part)
            return folder / name

        data = written("data.jsonl", rows)
        assert data
        before = written("earlier.jsonl", earlier)
        around = Surroundings({"suite": prompts}, (before,) if before else (), secret)
        accepted = Accepted(data, written("validation.jsonl", validation), written("test.jsonl", test))
        found = curate(accepted, parse_dataset_config(config), around, folder / "work", workers=workers)
        return Result(found, {name: list(read_rows(path)) for name, path in found.splits.items()}, folder / "work")


@pytest.fixture
def run(tmp_path: Path) -> Curator:
    return Curator(tmp_path)


def test_one_question_with_two_answers_is_kept_on_one_side_and_warned_about(run: Curator) -> None:
    again = [row(r.messages[0].content.upper(), "another", source=f"b.jsonl:{i}") for i, r in enumerate(many(200))]
    result = run([*many(200), *again])
    duplicates = result.check("duplicates")
    assert (duplicates.passed, duplicates.severity, duplicates.numbers["conflicting_answers"]) == (
        False,
        "warning",
        200,
    )
    assert len(duplicates.rows) == 10
    assert sum(result.curated.rows.values()) == 400
    assert result.check("no_split_leak").passed
    assert not result.blocking


def test_training_rows_that_ask_an_own_test_question_are_removed_and_counted(run: Curator) -> None:
    asked = row(f"  {many(1)[0].messages[0].content}".upper(), "other", source="t.jsonl:1")
    result = run(many(40), test=[asked])
    assert result.curated.rows == {"train": 39 - result.curated.rows["validation"], "test": 1} | {
        "validation": result.curated.rows["validation"]
    }
    assert result.curated.removed["leak"] == 1
    assert result.check("no_split_leak").passed


def test_questions_of_evaluation_suites_are_removed_from_what_is_trained_on(run: Curator) -> None:
    rows = [*many(20), row("What is 2+2?", "4", source="b:1"), row("Hello", "Hi", " what is 2+2? ", "4", source="b:2")]
    result = run(rows, prompts=(normalise("What is 2+2?"),))
    assert result.curated.removed["suite_overlap"] == 2
    overlap = result.check("no_suite_overlap")
    assert (overlap.passed, overlap.numbers) == (True, {"removed": 2, "left": 0})


def test_a_dataset_may_refuse_contamination_instead_of_removing_it(run: Curator) -> None:
    rows = [*many(20), row("What is 2+2?", "4", source="b:1")]
    result = run(
        rows, {"contamination": {"policy": "refuse"}, "split": {"test": 0, "validation": 0}}, prompts=("what is 2+2?",)
    )
    assert result.blocking == ["no_suite_overlap", "contamination"]
    shown = result.check("contamination").rows[0]
    assert (shown["row"], shown["overlap"], shown["with"]) == ("b:1", "exact", "suite suite: what is 2+2?")


def test_a_long_passage_of_a_test_row_is_not_trained_on(run: Curator) -> None:
    words = " ".join(f"w{i * i % 997}" for i in range(30))
    test = [row(f"Please explain {words}", "ok", source="t:1")]
    result = run([*many(20), row(f"Another thing: {words} and so on", "fine", source="b:1")], test=test)
    assert result.curated.removed["contaminated"] == 1
    assert result.check("contamination").rows == [
        {
            "row": "b:1",
            "overlap": "ngram",
            "with": "test: t:1",
            "prompt": result.check("contamination").rows[0]["prompt"],
        }
    ]
    assert "b:1" not in {r.source for r in result.splits["train"]}


def test_what_was_held_out_in_the_version_in_use_is_not_trained_on_next(run: Curator) -> None:
    before = many(5)
    result = run(many(40), {"split": {"test": 0, "validation": 0}}, earlier=before, test=[row("t", "a", source="t:1")])
    assert result.curated.removed == {"contaminated": 5}
    assert result.check("contamination").rows[0]["with"] == "held out in an earlier version"


def test_near_duplicates_are_told_or_left_out(run: Curator) -> None:
    text = " ".join(f"w{i * i % 997}" for i in range(40))
    rows = [*many(20), row(text, "yes", source="b:1"), row(f"{text} really", "yes", source="b:2")]
    settings = {"split": {"test": 0, "validation": 0}}
    told = run(rows, settings)
    assert not told.check("near_duplicates").passed
    assert told.check("near_duplicates").rows[0] | {"prompt": ""} == {
        "row": "b:2",
        "repeats": "b:1",
        "similarity": told.check("near_duplicates").rows[0]["similarity"],
        "prompt": "",
    }
    assert told.curated.removed == {}
    assert run(rows, settings | {"duplicates": {"near": "drop"}}).curated.removed == {"near_duplicate": 1}


def test_personal_data_is_replaced_before_duplicates_are_looked_for(run: Curator) -> None:
    rows = [*many(20), row("I am jo@example.com", "ok", source="b:1"), row("I am al@example.com", "ok", source="b:2")]
    result = run(rows)
    assert result.curated.totals.pii == {"EMAIL_ADDRESS": 2}
    assert result.curated.removed["duplicate"] == 1
    assert result.check("no_pii_left").passed
    assert result.check("no_pii_left").numbers == {"replaced": 2, "left": 0}


def test_a_row_that_is_dropped_for_personal_data_is_counted(run: Curator) -> None:
    rows = [*many(20), row("I am jo@example.com", "ok", source="b:1")]
    settings = {"pii": {"entities": {"EMAIL_ADDRESS": "drop_row"}}, "split": {"test_files": ["t"], "validation": 0}}
    result = run(rows, settings, test=[row("al@example.com", "x", source="t:1"), row("fine", "x", source="t:2")])
    assert result.curated.removed["personal_data"] == 2
    assert [r.source for r in result.splits["test"]] == ["t:2"]


def test_the_system_turn_goes_in_front_of_rows_without_one(run: Curator) -> None:
    rows = [*many(20), row("q", "a", system="Mine"), Row((), "d:1", kind="text", text="A document.")]
    result = run(rows, {"system": "Be brief."}, test=[row("t", "a", source="t:1")])
    firsts = [r.messages[0] for part in result.splits.values() for r in part if r.kind == "chat"]
    assert {m.role for m in firsts} == {"system"}
    assert {m.content for m in firsts} == {"Be brief.", "Mine"}
    assert not any(m.train for m in firsts)


def test_rows_get_their_language_and_a_dataset_may_allow_some_only(run: Curator) -> None:
    german = row("Wann kommt mein Paket endlich bei mir zu Hause an?", "Morgen früh kommt es an.", source="b:1")
    english = row("When will my parcel finally arrive at my house?", "It will arrive tomorrow morning.", source="b:2")
    settings = {"min_rows": 1, "split": {"test": 0, "validation": 0}}
    tagged = run([german, english], settings)
    assert [r.tags["language"] for r in tagged.splits["train"]] == ["de", "en"]
    flagged = run([german, english], settings | {"language": {"allow": ["en"]}})
    assert not flagged.check("language").passed
    assert len(flagged.splits["train"]) == 2
    dropped = run([german, english], settings | {"language": {"allow": ["en"], "others": "drop"}})
    assert [r.source for r in dropped.splits["train"]] == ["b:2"]
    assert dropped.curated.removed == {"language": 1}


def test_toxic_rows_are_tagged_dropped_or_refuse_the_version(run: Curator) -> None:
    rows = [*many(20), row("you zorkish fool", "sorry", source="b:1")]
    words = {"model": "words", "words": {"any": ["zorkish"]}}
    settings = {"split": {"test": 0, "validation": 0}}
    flagged = run(rows, settings | {"toxicity": {"policy": "flag", **words}})
    assert [r.source for r in flagged.splits["train"] if r.tags.get("toxic") == "true"] == ["b:1"]
    assert run(rows, settings | {"toxicity": {"policy": "drop", **words}}).curated.removed == {"toxic": 1}
    assert run(rows, settings | {"toxicity": {"policy": "fail", **words}}).blocking == ["toxicity"]
    assert not run(rows, settings | {"toxicity": {"policy": "fail", "max_rate": 0.1, **words}}).blocking


def test_synthetic_rows_are_trained_on_only_and_capped(run: Curator) -> None:
    synthetic = [
        row(f"{r.messages[0].content} please", "x", source=f"s:{i}", tags={"source": "synthetic"})
        for i, r in enumerate(many(60, 100))
    ]
    settings = {"synthetic": {"url": "http://localhost/v1", "model": "teacher", "max_share": 0.25}}
    result = run([*many(60), *synthetic], settings)
    assert all(r.tags.get("source") != "synthetic" for name in ("validation", "test") for r in result.splits[name])
    written = sum(r.tags.get("source") == "synthetic" for r in result.splits["train"])
    assert written == result.curated.decision.synthetic == (len(result.splits["train"]) - written) // 3
    assert result.curated.removed["synthetic_cap"] == 60 - written
    fewer = run([*many(50), *synthetic], settings)
    assert {r.source for r in fewer.splits["train"] if r.source.startswith("s:")} <= {
        r.source for r in result.splits["train"]
    }


def test_too_few_rows_after_curation_block(run: Curator) -> None:
    result = run([row("same", "same", source=f"a:{i}") for i in range(50)])
    assert result.blocking == ["enough_rows"]
    assert "min_rows is 10" in result.check("enough_rows").message


def test_own_test_rows_do_not_count_as_examples(run: Curator) -> None:
    own = [row(f"t{i}", "a", source=f"t:{i}") for i in range(50)]
    assert not run(many(5), test=own).check("enough_rows").passed


def test_own_validation_rows_stand_where_the_customer_put_them(run: Curator) -> None:
    own = [row(f"held {i} aside {i * 31}", "a", source=f"v:{i}") for i in range(7)]
    result = run(many(40), validation=own)
    assert [r.source for r in result.splits["validation"]] == [f"v:{i}" for i in range(7)]


def test_every_kind_of_row_passes_through(run: Curator) -> None:
    ask, yes, no = (
        (Message("user", "Which?", False),),
        (Message("assistant", "This."),),
        (Message("assistant", "That."),),
    )
    rows = [
        *many(20),
        Row(ask, "p:1", kind="preference", chosen=yes, rejected=no),
        Row((*ask, *yes), "k:1", kind="labelled", label=False),
        Row(ask, "r:1", kind="prompt", extra={"reference": "This."}),
        Row((), "d:1", kind="text", text="Once upon a time."),
    ]
    result = run(rows, {"split": {"test": 0, "validation": 0}})
    assert {r.kind for r in result.splits["train"]} == {"chat", "preference", "labelled", "prompt", "text"}
    assert not result.blocking


@pytest.mark.parametrize("workers", [2, RayCluster("local", 2)], ids=["processes", "ray"])
def test_workers_change_nothing(run: Curator, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftplatform.data.blocks.BLOCK_BYTES", 1 << 12)
    rows = [*many(300), row("I am jo@example.com", "ok", source="b:1"), *many(30)]
    settings = {"pii": {"policy": "pseudonym"}, "tagging": {"rules": [{"tag": "m", "value": "y", "pattern": "router"}]}}
    alone, together = run(rows, settings), run(rows, settings, workers=workers)
    assert alone.splits == together.splits
    assert [c.message for c in alone.curated.checks] == [c.message for c in together.curated.checks]


def _die(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_is_a_failure_that_a_retry_can_help() -> None:
    with pytest.raises(PayloadFailed, match="ended without an answer") as caught:
        list(map_ordered(_die, range(8), 2))
    assert caught.value.retry_helps
    assert list(map_ordered(abs, range(8), 2)) == list(range(8)), "the next call has workers again"


def test_the_erasure_index_finds_a_person_whose_address_is_gone(run: Curator) -> None:
    rows = [*many(20), row("I am Jo@Example.com", "ok", source="b:1"), row("call +91 98765 43210", "ok", source="b:2")]
    secret = b"k" * 32
    result = run(rows, {"split": {"test": 0, "validation": 0}}, secret=secret)
    index = result.curated.index.read_bytes()
    assert b"example" not in index
    (found,) = look_up(index, subject=subject_key(secret, "jo@example.com"))
    assert (found.source, found.side) == ("b:1", "train")
    assert [f.source for f in look_up(index, subject=subject_key(secret, "+91-98765 43210"))] == ["b:2"]
    assert list(look_up(index, subject=subject_key(bytes(32), "jo@example.com"))) == [], "another tenant's key"
    trained = next(r for r in result.splits["train"] if r.source == "b:1")
    assert [f.source for f in look_up(index, row_hash=trained.hash)] == ["b:1"]
    assert [f.hash for f in look_up(index, source="b:1")] == [trained.hash[:32]]


def test_what_changed_between_two_versions_is_counted(run: Curator) -> None:
    earlier, now = run(many(40)), run([*many(30), *many(15, 100)])
    found = changes(now.curated.index, earlier.curated.index)
    assert (found.new, found.kept, found.gone) == (15, 30, 10)


def test_curation_gives_the_same_result_again(run: Curator) -> None:
    first, second = run(many(60)), run(many(60))
    assert first.splits == second.splits
    assert first.curated.checks == second.curated.checks
    assert np.array_equal(first.curated.decision.sides, second.curated.decision.sides)


def test_every_schema_violation_is_reported_with_its_source() -> None:
    bad = [
        Row((Message("user", "q", False),), "a.jsonl:2"),
        Row((Message("user", "q", False), Message("assistant", "  ")), "a.jsonl:3"),
        Row((Message("robot", "q", False), Message("assistant", "a")), "a.jsonl:4"),
        Row((Message("user", "q", False), Message("assistant", "a", False)), "a.jsonl:5"),
        Row((Message("user", "q", False),), "a.jsonl:6", kind="preference", chosen=(Message("assistant", "a"),)),
    ]
    failures = check_schema(frame([*many(1), *bad]))
    assert {(f.line, f.path) for f in failures} == {
        (2, "complete"),
        (3, "empty"),
        (4, "roles"),
        (5, "complete"),
        (6, "complete"),
    }
    assert check_schema(frame(many(3))) == []
    assert check_schema(frame([])) == []


def test_a_schema_violation_blocks(run: Curator) -> None:
    broken = Row((Message("user", "q", False), Message("robot", "x"), Message("assistant", "a")), "b:1")
    assert run([*many(20), broken]).blocking == ["schema"]


def test_the_default_settings_hold_nothing_back(run: Curator) -> None:
    result = run(many(400))
    assert DatasetConfig() == parse_dataset_config(None)
    assert result.curated.removed == {}
    assert not result.blocking
    assert result.curated.rows["test"] in range(50, 110)


def test_a_group_that_no_row_has_is_warned_about(run: Curator) -> None:
    config = {"split": {"group_by": "custmer"}}
    rows = [row("Q", "A", tags={"customer": "7"}), *many(20)]
    check = run(rows, config).check("no_split_leak")
    assert (check.passed, check.severity) == (False, "warning")
    assert "'custmer'" in check.message
    config = {"split": {"group_by": "customer"}}
    assert run(rows, config).check("no_split_leak").passed
