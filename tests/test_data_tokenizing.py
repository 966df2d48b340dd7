"""A plan's splits become shards: order, mix, replay, checks and what is refused, over a real store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_data_fertility import byte_tokenizer
from test_data_tokens import CHATML, conversation

from ftplatform.assets import tokens_per_word
from ftplatform.assets.tokenizing import make_shards
from ftplatform.assets.tokens_per_word import check_tokens_per_word
from ftplatform.core.checks import CheckResult
from ftplatform.core.errors import DataRefused
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.payload import StoreAddress
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import MixConfig, TrainingConfig
from ftplatform.core.rows import Row, rows_to_jsonl
from ftplatform.data.language.fertility import ENGLISH
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.data.tokens.pack import pack
from ftplatform.data.tokens.shards import open_shard
from ftplatform.data.tokens.tokenize import tokenize_rows
from ftplatform.store import ObjectStore, open_store

pytest_plugins = ["test_data_tokens"]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))


@pytest.fixture
def text(tmp_path: Path, tokenizer: Any) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def chats(count: int, word: str = "card") -> list[Row]:
    return [
        Row(
            conversation(("user", f"{word} {n}?"), ("assistant", f"it is {n} here")).messages,
            f"{word}.jsonl:{n}",
            {"topic": "even" if n % 4 else "odd"},
        )
        for n in range(count)
    ]


def made(
    store: ObjectStore,
    text: Path,
    train: list[Row],
    validation: Sequence[Row] = (),
    general: list[Row] | None = None,
    mix: MixConfig | None = None,
    replay: float = 0.0,
    method: str = "sft",
    **training: Any,
) -> dict[str, Any]:
    put = lambda rows: store.put_bytes(rows_to_jsonl(rows))  # noqa: E731
    plan = Plan.model_construct(
        curated=CuratedDataset.model_construct(splits={"train": put(train), "validation": put(validation)}),
        base=BaseModel.model_construct(weights=store.put_tree(text), replay=put(general) if general else None),
        training=TrainingConfig(learning_rate=1e-3, **{"max_length": 64, **training}),
        method=method,
        mix=mix,
        replay=replay,
    )
    settings = SimpleNamespace(store=StoreAddress(url=(text.parent / "store").as_uri()))
    parts: Any = SimpleNamespace(store=store, settings=settings, workers=lambda size: 1)
    return make_shards(parts, plan, "acme/support", "code")


def test_the_shards_are_those_of_the_rows_tokenized_and_packed_one_by_one(store: ObjectStore, text: Path) -> None:
    rows = chats(40)
    found = made(store, text, rows, rows[:3])
    form = load_chat_format(text)
    tokenized = tokenize_rows(rows, form.tokenizer, form.template, 64)
    expected = pack(tokenized.rows, 64, form.pad_id)
    (digest,) = found["manifest"]["shards"]["train"]
    assert store.get_bytes(digest) == expected.to_bytes()
    assert found["manifest"]["tokens"]["train"] == expected.tokens
    assert found["manifest"]["supervised"]["train"] == expected.supervised
    assert (found["manifest"]["layout"], found["tokenized"], found["fill"]) == ("sft", 40, expected.fill)
    assert all(check["passed"] for check in found["checks"])
    assert "`card.jsonl:0` (least is learned" in found["learned"]
    assert "**it is 0 here" in found["learned"]


def test_another_length_packs_again_and_tokenizes_nothing(store: ObjectStore, text: Path) -> None:
    first = made(store, text, chats(40))
    again = made(store, text, chats(40), max_length=128)
    assert again["tokenized"] == 0
    assert again["manifest"]["shards"] != first["manifest"]["shards"]
    assert again["manifest"]["tokens"] == first["manifest"]["tokens"]


def test_a_mix_repeats_rows_and_reports_what_came_of_it(store: ObjectStore, text: Path) -> None:
    found = made(store, text, chats(40), mix=MixConfig(by="topic", weights={"odd": 0.5, "even": 0.5}))
    assert {one["value"]: one["realised"] for one in found["mix"]} == {"odd": 0.5, "even": 0.5}
    assert found["checks"][0]["numbers"]["rows"] == 40
    assert found["tokenized"] == 40


def test_replay_adds_general_rows_and_names_them(store: ObjectStore, text: Path) -> None:
    long = conversation(("user", "why? " * 60), ("assistant", "so"), source="general:7")
    found = made(store, text, chats(30), general=[*chats(9, "world"), long], replay=0.25)
    rows, dropped = found["checks"][0]["numbers"]["rows"], found["manifest"]["dropped"]["train"]
    assert rows + dropped == 40
    assert dropped == 1
    assert [row["source"] for row in found["checks"][2]["rows"]] == ["general:7"]


def test_documents_are_cut_and_preference_rows_are_no_matter_for_sft(store: ObjectStore, text: Path) -> None:
    document = Row((), "a.md:1", kind="text", text="the card is here " * 60)
    found = made(store, text, [document, document])
    assert found["manifest"]["layout"] == "text"
    (digest,) = found["manifest"]["shards"]["train"]
    shard = open_shard(store.path(digest))
    assert shard["input_ids"].shape == (-(-found["manifest"]["tokens"]["train"] // 64), 64)
    answer = conversation(("assistant", "yes")).messages
    pair = Row(conversation(("user", "a")).messages, "p:1", kind="preference", chosen=answer, rejected=answer)
    with pytest.raises(DataRefused, match="layout preference, which the method sft cannot learn from"):
        made(store, text, [pair])
    with pytest.raises(DataRefused, match="cannot be trained on together"):
        made(store, text, [pair, *chats(1)])


def test_the_rows_shown_are_the_worst_and_a_typical_one_also_when_the_checks_fail(
    store: ObjectStore, text: Path
) -> None:
    rows = chats(40)
    rows[21] = conversation(("user", "who?"), ("assistant", "me", False), source="card.jsonl:21")
    rows[30] = conversation(("user", "why? " * 9), ("assistant", "so"), source="card.jsonl:30")
    found = made(store, text, rows)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["rows_supervised"]
    blocks = found["learned"].split("\n\n")
    assert blocks[0].startswith("`card.jsonl:21` (nothing is learned)")
    assert blocks[1].startswith("`card.jsonl:30` (least is learned")
    assert any("(nearest to the limit" in block for block in blocks)
    assert any("(typical" in block for block in blocks)
    assert len({block.split("`")[1] for block in blocks}) == len(blocks) <= 8
    page = store.get_bytes(found["page"]).decode()
    assert '<mark style="background:#c9f2d0">so&lt;|im_end|&gt;</mark>' in page
    assert "acme/support" in page


def test_of_a_pair_the_answer_at_fault_is_shown(store: ObjectStore, text: Path) -> None:
    def pair(number: int, rejected: str) -> Row:
        answers = [conversation(("assistant", answer)).messages for answer in (f"yes {number}", rejected)]
        return Row(
            conversation(("user", f"card {number}?")).messages,
            f"p:{number}",
            kind="preference",
            chosen=answers[0],
            rejected=answers[1],
        )

    found = made(store, text, [pair(n, "no " * 12 if n == 5 else "no") for n in range(9)], method="dpo")
    assert found["manifest"]["layout"] == "preference"
    (nearest,) = [b for b in found["learned"].split("\n\n") if b.startswith("`p:5`")]
    assert "**no no no" in nearest
    assert "nearest to the limit" in nearest
    assert "yes" not in nearest


HINDI = "मेरा ऑर्डर कहाँ है और कब तक पहुँचेगा कृपया बताइए"


def test_a_costly_language_is_warned_about_with_the_bases_that_would_do_better(store: ObjectStore, text: Path) -> None:
    def base(folder: Path) -> dict[str, Any]:
        weights = store.put_tree(folder)
        model = BaseModel(
            slug="x",
            revision="0a1b2c3d",
            weights=weights,
            replay=None,
            parameters=1,
            architecture="x",
            max_length=64,
            vocabulary=9,
        )
        return {"manifest": model.model_dump(mode="json")}

    ours = base(text)
    store.put_doc("latest/base_model/small@0a1b2c3d", ours)
    better = text.parent / "better"
    better.mkdir()
    byte_tokenizer([HINDI, *ENGLISH.split(".")] * 3, 2000).save(str(better / "tokenizer.json"))
    store.put_doc("latest/base_model/indic@0a1b2c3d", base(better))
    keys = ("never-made@0a1b2c3d", "small@0a1b2c3d", "indic@0a1b2c3d")
    bases = SimpleNamespace(all=lambda: [{"base": key} for key in keys])
    parts: Any = SimpleNamespace(store=store, catalog=SimpleNamespace(bases=bases))

    def check(rows: list[Row]) -> CheckResult:
        split = store.put_bytes(rows_to_jsonl(rows))
        curated = CuratedDataset.model_construct(splits={"train": split}, rows={"train": len(rows)})
        weights = BaseModel.model_construct(weights=ours["manifest"]["weights"])
        return check_tokens_per_word(parts, Plan.model_construct(curated=curated, base=weights))

    def spoken(language: str, text: str, count: int) -> list[Row]:
        return [
            Row(conversation(("user", f"{text} {n}"), ("assistant", "so")).messages, f"a:{n}", {"language": language})
            for n in range(count)
        ]

    found = check([*spoken("en", "where is the card", 40), *spoken("hi", HINDI, 40), *spoken("und", HINDI, 9)])
    assert (found.name, found.passed, found.blocks) == ("tokens_per_word", False, False)
    assert "hi takes" in found.message
    assert "better: indic" in found.message, "and neither the base itself nor one that was never made"
    assert [row["language"] for row in found.rows] == ["hi", "en"]
    assert check(spoken("en", "where is the card", 40)).passed
    assert check(chats(9)).passed, "rows without the tag are not judged"


def test_a_long_split_is_sampled_at_equal_distances(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_per_word, "SAMPLED_ROWS", 4)
    rows = [Row(conversation(("user", f"n{n}")).messages, f"a:{n}", {"language": "en"}) for n in range(11)]
    parts: Any = SimpleNamespace(store=store)
    split = store.put_bytes(rows_to_jsonl(rows))
    assert tokens_per_word._texts(parts, split, 11) == {"en": ["n0", "n2", "n4", "n6"]}
