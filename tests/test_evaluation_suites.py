"""From suite folders and held-out rows to suites in the store, and what is known about scores already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftplatform.core.errors import DataRefused, InvalidConfig, NotFound, PayloadFailed
from ftplatform.core.payload import ModelSpec, PayloadResult, StoreAddress
from ftplatform.core.rows import Message, Row
from ftplatform.data.text import normalise
from ftplatform.evaluation import score_cache, suite_files
from ftplatform.evaluation.items import parse_items
from ftplatform.evaluation.margins import MANDATORY_SUITES
from ftplatform.evaluation.score_cache import load_scores, missing_scores, record_scores, score_request, score_requests
from ftplatform.evaluation.suite_files import (
    heldout_item,
    pinned_spec,
    platform_suites,
    prompts_by_suite,
    publish_heldout,
    publish_suite,
    read_suite,
    suite_items,
)
from ftplatform.store import open_store

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def store(tmp_path):
    return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))


def item(number: int, **changes) -> dict:
    question = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f" Question {number}? "}]
    return {
        "id": f"q{number}",
        "messages": question,
        "choices": ["yes", "no"],
        "answer": number % 2,
        "tags": {"kind": "plain"},
        **changes,
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package folder with one suite, ``own``."""
    monkeypatch.setattr(suite_files, "FOLDER", tmp_path / "suites")
    read_suite.cache_clear()
    prompts_by_suite.cache_clear()
    place = tmp_path / "suites" / "own"
    place.mkdir(parents=True)
    (place / "suite.yaml").write_text("name: own\nkind: multiple_choice\ndescription: two questions\n")
    (place / "items.jsonl").write_text("".join(json.dumps(item(n)) + "\n" for n in range(6)))
    yield place
    read_suite.cache_clear()
    prompts_by_suite.cache_clear()


@pytest.mark.parametrize("name", MANDATORY_SUITES)
def test_every_mandatory_suite_ships_with_500_items_or_more_and_tags_for_slices(name, store):
    suite = publish_suite(store, name)
    items = suite_items(store, suite.spec)
    assert suite.n == len(items) >= 500
    assert len({normalise(i.messages[-1].content) for i in items}) >= 0.9 * len(items)
    assert any(i.tags for i in items)


def test_a_published_suite_is_found_again_by_the_digest_a_plan_pins(store, folder):
    suite = publish_suite(store, "own")
    pinned = suite.pinned({"own": 0.1})
    assert (pinned.name, pinned.n, pinned.margin) == ("own", 6, 0.1)
    assert pinned_spec(store, pinned) == suite.spec
    assert [i.id for i in suite_items(store, suite.spec)] == [f"q{n}" for n in range(6)]
    assert publish_suite(store, "own").digest == suite.digest


@pytest.mark.parametrize("change", ["item", "order", "terms"])
def test_any_change_of_a_suite_gives_it_another_digest(store, folder, change):
    before = publish_suite(store, "own").digest
    lines = (folder / "items.jsonl").read_text().splitlines(keepends=True)
    if change == "item":
        lines[3] = lines[3].replace('"no"', '"never"')
    if change == "order":
        lines.reverse()
    if change == "terms":
        with (folder / "suite.yaml").open("a") as stream:
            stream.write("max_new_tokens: 5\n")
    (folder / "items.jsonl").write_text("".join(lines))
    read_suite.cache_clear()
    assert publish_suite(store, "own").digest != before


def test_an_unknown_suite_is_an_error_that_lists_the_known_ones(store, folder):
    with pytest.raises(NotFound, match="'ours': known are own"):
        publish_suite(store, "ours")
    assert platform_suites() == ("own",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, is not JSON"),
        (json.dumps(item(1, answer=2)), "index into them"),
        (json.dumps(item(1, choices=["yes"])), "choices"),
        (json.dumps(item(1, choices=["yes", ""])), "a choice is empty"),
        (json.dumps(item(0)), "'q0' was used before"),
        (json.dumps(item(1, choices=None, answer=None, reference="x")), "the suite is multiple_choice"),
        (json.dumps(item(1, messages=[{"role": "tool", "content": "x"}])), "messages.0.role"),
    ],
)
def test_a_broken_item_is_refused_with_its_line(line, message):
    with pytest.raises(DataRefused, match=message):
        parse_items(f"{json.dumps(item(0))}\n{line}\n".encode(), "multiple_choice", "suites/own/items.jsonl")


def test_a_definition_under_another_name_is_refused(store, folder):
    (folder / "suite.yaml").write_text("name: other\nkind: multiple_choice\ndescription: x\n")
    with pytest.raises(InvalidConfig, match="name: other"):
        publish_suite(store, "own")


def test_the_prompts_of_a_suite_are_its_normalised_questions(folder):
    (prompts,) = [set(one) for one in prompts_by_suite().values() if one]
    assert prompts == {f"question {n}?" for n in range(6)}


def conversation(*contents: str, tags: dict[str, str] | None = None) -> Row:
    roles = ("system", "user", "assistant", "user", "assistant")
    return Row(tuple(Message(role, text) for role, text in zip(roles, contents, strict=False)), "file:1", tags or {})


def test_a_held_out_row_is_asked_everything_before_its_last_answer():
    row = conversation("Be kind.", "Hi", "Hello", "Bye", "See you", tags={"tone": "warm"})
    made = heldout_item(row)
    assert [(t.role, t.content) for t in made.messages] == [
        ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"),
    ]  # fmt: skip
    assert (made.reference, made.id, made.tags) == ("See you", row.hash, {"tone": "warm"})


def test_the_held_out_suite_counts_a_repeated_conversation_once(store):
    rows = [conversation("s", "a", "1"), conversation("s", "b", "2"), conversation("s", "a", "1")]
    suite = publish_heldout(store, rows, 9)
    assert (suite.n, suite.spec.name, suite.spec.kind, suite.spec.max_new_tokens) == (2, "heldout", "exact_match", 9)


def test_a_dataset_without_test_rows_is_refused_with_what_to_do(store):
    with pytest.raises(DataRefused, match=r"split\.test"):
        publish_heldout(store, [], 9)
    with pytest.raises(DataRefused, match="no assistant turn"):
        publish_heldout(store, [conversation("s", "a")], 9)


BASE = ModelSpec(name="base", kind="base", base_weights=A)
LORA = ModelSpec(name="candidate", kind="lora", base_weights=A, weights=B)


def test_a_score_is_known_by_bytes_and_terms_and_not_by_names(store, folder):
    suite = publish_suite(store, "own").spec
    key = score_request(LORA, suite).cache
    same = [LORA.model_copy(update={"name": "champion"})]
    other = [
        BASE,
        LORA.model_copy(update={"base_weights": C}),
        LORA.model_copy(update={"weights": C}),
        LORA.model_copy(update={"kind": "full"}),
    ]
    assert [score_request(m, suite).cache == key for m in same + other] == [True, False, False, False, False]
    assert score_request(LORA, suite.model_copy(update={"items": C})).cache != key
    held = suite.model_copy(update={"kind": "exact_match"})
    assert score_request(LORA, held).cache != score_request(LORA, held.model_copy(update={"max_new_tokens": 5})).cache


def test_the_code_of_the_payload_is_in_the_key_and_the_gate_is_not():
    package = Path(score_cache.__file__).parent
    named = {package.parent / f"{part}.py" for part in score_cache.CODE}
    assert all(path.is_file() for path in named)
    assert set(package.glob("runner*.py")) <= named
    assert not {package / "gate.py", package / "statistics.py"} & named


def done(store, spec, score=1) -> PayloadResult:
    scored = {}
    for request in spec.requests:
        items = [{"id": i.id, "score": score} for i in suite_items(store, request.suite)]
        value = {"suite": request.suite.name, "n": len(items), "score": float(score), "too_long": 0, "items": items}
        scored[request.cache] = store.put_json(value)
    return PayloadResult(outcome="done", message="", artifacts=scored)


def test_only_what_is_not_known_is_asked_for_and_each_score_once(store, folder):
    suites = [publish_suite(store, "own").spec, publish_heldout(store, [conversation("s", "a", "1")], 9).spec]
    address = StoreAddress(url="file:///x")
    first = missing_scores(store, score_requests([BASE], suites), address=address, threads=1)
    assert first is not None
    assert len(first.requests) == 2
    record_scores(store, first, done(store, first))
    everything = score_requests([BASE, LORA, LORA.model_copy(update={"name": "champion"})], suites)
    second = missing_scores(store, everything, address=address, threads=1)
    assert second is not None
    assert [r.model.kind for r in second.requests] == ["lora", "lora"]
    record_scores(store, second, done(store, second))
    assert missing_scores(store, everything, address=address, threads=1) is None
    scores = load_scores(store, everything)
    assert scores["candidate"] == scores["champion"]
    assert scores["base"]["own"].n == 6


def test_scores_that_are_absent_or_incomplete_do_not_become_known(store, folder):
    suite = publish_suite(store, "own").spec
    requests = score_requests([BASE, LORA], [suite])
    spec = missing_scores(store, requests, address=StoreAddress(url="file:///x"), threads=1)
    assert spec is not None
    good = done(store, spec)
    last = spec.requests[-1].cache
    cut = store.get_json(good.artifacts[last]) | {"items": [{"id": "q0", "score": 1}]}
    for bad in (
        PayloadResult(outcome="out_of_memory", message="too big"),
        good.model_copy(update={"artifacts": {k: v for k, v in good.artifacts.items() if k != last}}),
        good.model_copy(update={"artifacts": good.artifacts | {last: store.put_json(cut)}}),
    ):
        with pytest.raises(PayloadFailed):
            record_scores(store, spec, bad)
        with pytest.raises(NotFound, match="not scored on own"):
            load_scores(store, requests)
