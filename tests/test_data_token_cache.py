"""Rows are tokenized once: by content, in any order, also after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_data_tokens import CHATML, conversation

from ftplatform.core.payload import StoreAddress
from ftplatform.core.rows import Message, Row, rows_to_jsonl
from ftplatform.data.tokens import work as token_work
from ftplatform.data.tokens.base_text import BaseText, open_text
from ftplatform.data.tokens.figures import measure
from ftplatform.data.tokens.row_cache import TokenBook, documents_of, forget, from_bytes, keys_of, to_bytes
from ftplatform.data.tokens.tokenize import TokenBlock, tokenize_rows
from ftplatform.data.tokens.work import FileTokens, sources_of, tag_values, tokenize_file
from ftplatform.data.workers import RayCluster, Workers
from ftplatform.store import ObjectStore, open_store

pytest_plugins = ["test_data_tokens"]


def chats(count: int, word: str = "card") -> list[Row]:
    return [
        conversation(("user", f"{word} {n}?"), ("assistant", f"it is {n * n} here"), source=f"a.jsonl:{n}")
        for n in range(count)
    ]


@pytest.fixture
def text(tmp_path: Path, tokenizer: object) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))


def book(store: ObjectStore, tmp_path: Path, name: str = "acme/support/v1") -> TokenBook:
    folder = tmp_path / f"work{len(list(tmp_path.glob('work*')))}"
    folder.mkdir()
    return TokenBook(store, name, folder)


def base_of(store: ObjectStore, text: Path, tmp_path: Path) -> BaseText:
    return BaseText(StoreAddress(url=(tmp_path / "store").as_uri()), store.put_tree(text))


def tokenized(store: ObjectStore, text: Path, tmp_path: Path, rows: list[Row]) -> tuple[FileTokens, TokenBook]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows_to_jsonl(rows))
    into = book(store, tmp_path)
    return tokenize_file(into, base_of(store, text, tmp_path), path), into


def tokens_of(found: FileTokens, into: TokenBook) -> list[list[int]]:
    block = into.take(into.rows(found.keys), 1)
    return [part.tolist() for part in np.split(block.ids, np.cumsum(block.lengths)[:-1])]


def expected(rows: list[Row], text: Path) -> list[list[int]]:
    from ftplatform.data.rendering.chat_format import load_chat_format

    form = load_chat_format(text)
    return [row.input_ids.tolist() for row in tokenize_rows(rows, form.tokenizer, form.template, 10_000).rows]


def test_a_dataset_that_grew_by_one_per_cent_tokenizes_one_per_cent(
    store: ObjectStore, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_work, "BLOCK_ROWS", 64)
    rows = chats(1000)
    assert tokenized(store, text, tmp_path, rows)[0].made == 1000
    # New rows anywhere, and every line number after them is another one.
    more = chats(10, "new")
    grown = [row for n in range(1000) for row in ((more[n // 100], rows[n]) if n % 100 == 50 else (rows[n],))]
    grown = [Row(row.messages, f"b.jsonl:{n}") for n, row in enumerate(grown)]
    found, into = tokenized(store, text, tmp_path, grown)
    assert found.made == 10
    assert tokens_of(found, into) == expected(grown, text)
    assert tokenized(store, text, tmp_path, grown[::-1])[0].made == 0


def test_one_changed_character_is_another_row_and_source_and_tags_are_not_part_of_it() -> None:
    row = conversation(("user", "a"), ("assistant", "b"))
    other = Row(row.messages, "elsewhere:9", {"topic": "x"})
    changed = conversation(("user", "a"), ("assistant", "b."))
    unlearned = conversation(("user", "a"), ("assistant", "b", False))
    keys, kinds = keys_of(rows_to_jsonl([row, other, changed, unlearned]).splitlines())
    assert keys[0] == keys[1]
    assert len({bytes(key) for key in keys}) == 3
    assert kinds == {"chat"}


def test_a_killed_run_goes_on_from_its_finished_blocks(
    store: ObjectStore, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_work, "BLOCK_ROWS", 50)
    done = TokenBook.add

    def dying(self: TokenBook, *args: object) -> None:
        if len(self._blocks) == 3:
            raise KeyboardInterrupt
        done(self, *args)  # type: ignore[arg-type]

    rows = chats(300)
    with monkeypatch.context() as patch:
        patch.setattr(TokenBook, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            tokenized(store, text, tmp_path, rows)
    found, into = tokenized(store, text, tmp_path, rows)
    assert found.made == 150
    assert tokens_of(found, into) == expected(rows, text)


def test_a_block_that_the_store_lost_is_tokenized_again(store: ObjectStore, text: Path, tmp_path: Path) -> None:
    tokenized(store, text, tmp_path, chats(20))
    (name,) = store.list_docs("tokens/acme/support/v1")
    digest = store.get_doc(name)["block"]
    (tmp_path / "store" / "objects" / digest[:2] / digest).unlink()
    assert tokenized(store, text, tmp_path, chats(20))[0].made == 20


@pytest.mark.parametrize("workers", [2, RayCluster("local", 2)], ids=["processes", "ray"])
def test_workers_do_not_change_a_byte(
    store: ObjectStore, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: Workers
) -> None:
    if isinstance(workers, RayCluster):
        pytest.importorskip("ray")
    monkeypatch.setattr(token_work, "BLOCK_ROWS", 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows_to_jsonl(chats(90)))
    one, two = book(store, tmp_path, "one"), book(store, tmp_path, "two")
    base = base_of(store, text, tmp_path)
    alone, shared = tokenize_file(one, base, path, 1), tokenize_file(two, base, path, workers)
    assert alone.keys.tobytes() == shared.keys.tobytes()
    blocks = [[store.get_doc(doc)["block"] for doc in store.list_docs(f"tokens/{name}")] for name in ("one", "two")]
    assert len(blocks[0]) == 5
    assert blocks[0] == blocks[1]


@pytest.mark.parametrize("largest", [200, 65_535, 65_536, 200_000])
def test_a_block_reads_back_whatever_the_vocabulary(largest: int) -> None:
    ids = np.array([0, 5, largest, 7, 1], dtype=np.int32)
    learned = np.array([False, True, True, False, True])
    block = TokenBlock(ids, learned, np.array([2, 0, 3]), np.array([1, 0, 2], np.int32), (b"{}", b"", b"true"))
    figures = measure(block, [1])
    back, found = from_bytes(to_bytes(block, figures))
    for field in ("lengths", "turns", "supervised", "stopped", "unended"):
        assert getattr(found, field).tolist() == getattr(figures, field).tolist()
        assert getattr(found, field).dtype == getattr(figures, field).dtype
    assert back.extra == block.extra
    for name in ("ids", "learned", "lengths", "turns"):
        assert getattr(back, name).tolist() == getattr(block, name).tolist()
        assert getattr(back, name).dtype == getattr(block, name).dtype


def test_sources_and_tags_of_rows_are_found_by_place(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        rows = [Row((Message("user", "x"),), f"{name}:{n}", {"topic": f"{name}{n}"} if n else {}) for n in range(3)]
        paths.append(tmp_path / name)
        paths[-1].write_bytes(rows_to_jsonl(rows))
    assert sources_of(paths, [4, 0, 4]) == {0: "a:0", 4: "b:1"}
    assert tag_values(paths[1], "topic") == ["", "b1", "b2"]


def test_another_base_model_is_another_tokenizer_in_the_same_process(
    store: ObjectStore, text: Path, tmp_path: Path
) -> None:
    first = base_of(store, text, tmp_path)
    (text / "chat_template.jinja").write_text(CHATML.replace("message['role'] + ", ""))
    second = base_of(store, text, tmp_path)
    row = chats(1)
    lengths = [open_text(base)[0](row).ids.tolist() for base in (first, second, first)]
    assert lengths[0] == lengths[2] != lengths[1]


def test_a_dataset_can_be_forgotten_and_names_what_only_it_had(store: ObjectStore, text: Path, tmp_path: Path) -> None:
    tokenized(store, text, tmp_path, chats(20))
    shared, other = book(store, tmp_path), book(store, tmp_path, "acme/support-2/v1")
    rows = chats(3, "shared")
    for one in (shared, other):
        keys, _ = keys_of(rows_to_jsonl(rows).splitlines())
        tokens = open_text(base_of(store, text, tmp_path))[0](rows)
        one.add(keys, tokens, measure(tokens, [1]))
    names = documents_of(store, "acme/support")
    assert len(names) == 2
    mine = {digest for name in names for digest in store.get_doc(name).values()}
    theirs = {digest for name in documents_of(store, "acme/support-2") for digest in store.get_doc(name).values()}
    assert forget(store, "acme/support") == sorted(mine - theirs)
    assert documents_of(store, "acme/support") == []
    assert len(documents_of(store, "acme/support-2")) == 1, "another dataset keeps its own"
    assert forget(store, "acme/support") == []
    assert tokenized(store, text, tmp_path, chats(20))[0].made == 20
