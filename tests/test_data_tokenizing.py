"""A plan's splits become shards: order, mix, replay, checks and what is refused, over a real store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_data_tokens import CHATML, conversation

from ftplatform.assets.tokenizing import make_shards
from ftplatform.core.errors import DataRefused
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.payload import StoreAddress
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import MixConfig, TrainingConfig
from ftplatform.core.rows import Row, rows_to_jsonl
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
    **training: Any,
) -> dict[str, Any]:
    put = lambda rows: store.put_bytes(rows_to_jsonl(rows))  # noqa: E731
    plan = Plan.model_construct(
        curated=CuratedDataset.model_construct(splits={"train": put(train), "validation": put(validation)}),
        base=BaseModel.model_construct(weights=store.put_tree(text), replay=put(general) if general else None),
        training=TrainingConfig(learning_rate=1e-3, **{"max_length": 64, **training}),
        method="sft",
        mix=mix,
        replay=replay,
    )
    parts: Any = SimpleNamespace(store=store, workers=lambda size: 1)
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
    assert "`card.jsonl:0`" in found["learned"]
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
