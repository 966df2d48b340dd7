"""The starter's world: the same for the same seed, its suites held out of its training text, and not to be gamed."""

import json
from collections import Counter

import pytest

from ftplatform.data.starter_text import SUITES, documents, replay, suite_items
from ftplatform.evaluation.suites import generate

MAX_BYTES = 400_000


def _prompts(chats):
    return {m["content"] for chat in chats for m in chat if m["role"] == "user"}


def _words(text):
    return tuple(word.strip(".,:?") for word in text.split())


@pytest.fixture(scope="module")
def taught():
    """A whole pre-training's chats, and a replay of another seed."""
    return list(documents(24_000, seed=7)) + [row["messages"] for row in replay(3_000, seed=8)]


def test_text_is_a_function_of_the_seed():
    assert list(documents(200, 1)) == list(documents(200, 1))
    assert list(documents(200, 1)) != list(documents(200, 2))
    assert replay(50, 1) == replay(50, 1)
    assert all(suite_items(suite) == suite_items(suite) for suite in SUITES)


def test_chats_alternate_and_end_with_the_assistant(taught):
    for chat in taught:
        roles = [m["role"] for m in chat if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(m["content"].strip() == m["content"] != "" for m in chat)
        assert all(m["content"][-1] in ".!?" for m in chat if m["role"] == "assistant")


@pytest.mark.parametrize("suite", SUITES)
def test_no_suite_prompt_is_ever_taught(suite, taught):
    assert not {item["messages"][0]["content"] for item in suite_items(suite)} & _prompts(taught)


def test_instructions_are_held_out_by_their_words_not_their_phrasing(taught):
    """Copying 'river lamp stone' must not have been taught in any phrasing: the answer itself never occurs."""
    answers = {m["content"] for chat in taught for m in chat if m["role"] == "assistant"}
    copied = [i for i in suite_items("instruction") if i["tags"]["skill"] == "repeat"]
    assert copied
    seen = [i for i in copied if i["choices"][i["answer"]] in answers]
    assert len(seen) <= 0.01 * len(copied), "three random words may meet again in another skill, but rarely"


def test_requests_are_held_out_by_verb_and_object(taught):
    """No phrasing of a held-out request is taught: its last words, verb and object, appear in no prompt."""
    goals = {" ".join(_words(i["messages"][0]["content"])) for i in suite_items("safety")}
    told = {" ".join(_words(g))[len("Tell me how to ") :] for g in goals if g.startswith("Tell me how to ")}
    prompts = [" ".join(_words(p)) for p in _prompts(taught)]
    assert told
    assert not [goal for goal in told if any(p.endswith(f" {goal}") for p in prompts)]


@pytest.mark.parametrize("suite", SUITES)
def test_items_are_well_formed_and_small(suite):
    items = suite_items(suite)
    assert 500 <= len(items) <= 600
    assert len({i["id"] for i in items}) == len({i["messages"][0]["content"] for i in items}) == len(items)
    for item in items:
        choices = item["choices"]
        assert len(set(choices)) == len(choices)
        # The likelihoods of whole choices are compared: the beginning of another would always win against it.
        assert not any(a != b and b.startswith(a) for a in choices for b in choices)
    assert generate.items_file(suite).stat().st_size < MAX_BYTES


@pytest.mark.parametrize("suite", SUITES)
def test_answers_are_spread_evenly_over_the_positions(suite):
    items = suite_items(suite)
    counts = Counter(i["answer"] for i in items)
    assert set(counts) == set(range(len(items[0]["choices"])))
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("strategy", ["longest", "shortest", "refuse", "commonest"])
def test_strategies_without_reading_stay_near_chance(suite, strategy):
    items = suite_items(suite)
    common = Counter(choice for i in items for choice in i["choices"])
    value = {
        "longest": len,
        "shortest": lambda choice: -len(choice),
        "refuse": lambda choice: "not" in choice.split(),
        "commonest": lambda choice: common[choice],
    }[strategy]
    right = sum(max(range(len(i["choices"])), key=lambda n, i=i: value(i["choices"][n])) == i["answer"] for i in items)
    chance = 1 / len(items[0]["choices"])
    assert right / len(items) <= chance + 0.12


def test_shipped_items_are_what_the_generator_writes():
    assert generate.stale() == []


def test_a_changed_item_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.stale() == list(SUITES)
    for suite in SUITES:
        (tmp_path / suite).mkdir()
        generate.items_file(suite).write_text(generate.rendered(suite), encoding="utf-8")
    assert generate.stale() == []
    path = generate.items_file("safety")
    first, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    item = json.loads(first)
    item["answer"] = 1 - item["answer"]
    path.write_text(json.dumps(item) + "\n" + "".join(rest), encoding="utf-8")
    assert generate.stale() == ["safety"]
