"""Shard files of every layout, and the reader of more of them than a disk holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftplatform.core.errors import CorruptObject, DataRefused, InvalidConfig, NotFound
from ftplatform.core.payload import StoreAddress
from ftplatform.data.tokens import work as token_work
from ftplatform.data.tokens.checks import check_rows
from ftplatform.data.tokens.figures import measure
from ftplatform.data.tokens.pack import cut
from ftplatform.data.tokens.row_cache import Keys, TokenBook
from ftplatform.data.tokens.shard_reader import Position, ShardReader
from ftplatform.data.tokens.shards import Layout, ShardWriter, Written, layout_of, open_shard
from ftplatform.data.tokens.tokenize import IGNORED, TokenBlock
from ftplatform.data.tokens.work import SplitShards, write_split
from ftplatform.store import ObjectStore, open_store

PAD = 999
BEGIN = Position()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))


def block(lengths: list[int], learned_from: int = 1, extra: tuple[bytes, ...] | None = None) -> TokenBlock:
    """Sequence ``n`` holds ``10 n, 10 n + 1, ...``; learned from one place on; the last token is a stop token."""
    ids = [np.arange(10 * n, 10 * n + length) for n, length in enumerate(lengths)]
    learned = [np.arange(length) >= learned_from for length in lengths]
    none = np.zeros(0)
    return TokenBlock(
        np.concatenate([none, *ids]).astype(np.int32),
        np.concatenate([none, *learned]).astype(np.bool_),
        np.array(lengths, dtype=np.int64),
        np.ones(len(lengths), dtype=np.int32),
        extra or (b"",) * len(lengths),
    )


def written(
    store: ObjectStore, folder: Path, layout: Layout, blocks: list[TokenBlock], length: int = 8, size: int = 1 << 20
) -> tuple[Written, list[dict[str, Any]]]:
    writer = ShardWriter(store, folder, layout, length, PAD, size)
    for one in blocks:
        writer.add(one)
    done = writer.close()
    return done, [open_shard(store.path(digest)) for digest in done.files]


def test_kinds_decide_the_layout_and_mixtures_that_no_method_takes_are_refused() -> None:
    assert [layout_of({kind}) for kind in ("chat", "text", "preference", "labelled", "prompt")] == [
        "sft", "text", "preference", "kto", "prompts",
    ]  # fmt: skip
    assert layout_of({"chat", "text"}) == "sft"
    with pytest.raises(DataRefused, match="chat, preference stand in one dataset"):
        layout_of({"chat", "preference"})


def test_files_stay_below_their_bound_and_hold_the_sequences_in_order(store: ObjectStore, tmp_path: Path) -> None:
    done, files = written(store, tmp_path, "sft", [block([8] * 7), block([8] * 4)], size=8 * 12 * 3)
    assert [len(file["input_ids"]) for file in files] == [3, 3, 3, 2]
    assert done.sequences == 11
    whole, (one,) = written(store, tmp_path, "sft", [block([8] * 7), block([8] * 4)])
    for name in ("input_ids", "labels", "position_ids"):
        assert np.concatenate([file[name] for file in files]).tolist() == one[name].tolist()
    assert (done.tokens, done.supervised, done.fill) == (whole.tokens, whole.supervised, 1.0) == (88, 77, 1.0)


def test_a_preference_file_has_both_answers_of_a_pair_with_their_prompts(store: ObjectStore, tmp_path: Path) -> None:
    done, (file,) = written(store, tmp_path, "preference", [block([4, 6], 3), block([5, 4], 2)])
    assert file["offsets"].tolist() == [0, 4, 10, 15, 19]
    assert file["prompt_lengths"].tolist() == [3, 3, 2, 2]
    assert file["input_ids"][4:10].tolist() == [10, 11, 12, 13, 14, 15]
    assert file["learned"].tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert (done.sequences, done.tokens) == (4, 19)


def test_labelled_rows_keep_their_labels_and_prompts_what_their_grader_reads(
    store: ObjectStore, tmp_path: Path
) -> None:
    _, (kto,) = written(
        store, tmp_path, "kto", [block([3, 4], extra=(b"true", b"false")), block([3], extra=(b"true",))]
    )
    assert kto["labels"].tolist() == [1, 0, 1]
    notes = (b'{"answer":4}', b"{}", b'{"answer":"six"}')
    _, (prompts,) = written(store, tmp_path, "prompts", [block([3, 4, 2], 99, notes)])
    parts = np.split(prompts["extra"], prompts["extra_offsets"][1:-1])
    assert [json.loads(part.tobytes()) for part in parts] == [{"answer": 4}, {}, {"answer": "six"}]
    assert prompts["prompt_lengths"].tolist() == [3, 4, 2]


def test_flat_files_are_cut_between_windows(store: ObjectStore, tmp_path: Path) -> None:
    _, files = written(store, tmp_path, "kto", [block([4] * 5)] * 4, size=400)
    assert len(files) > 1
    assert sum(len(file["offsets"]) - 1 for file in files) == 20
    assert all(file["offsets"][-1] == len(file["input_ids"]) for file in files)


@given(st.lists(st.lists(st.integers(0, 40), max_size=6), max_size=5), st.integers(2, 16))
def test_text_fills_every_sequence_and_loses_no_token(windows: list[list[int]], length: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        store = open_store(StoreAddress(url=Path(folder, "store").as_uri()))
        done, files = written(store, Path(folder), "text", [block(lengths, 0) for lengths in windows], length)
        ids = np.concatenate([file["input_ids"] for file in files]).reshape(-1)
        labels = np.concatenate([file["labels"] for file in files]).reshape(-1)
        positions = np.concatenate([file["position_ids"] for file in files]).reshape(-1)
        expected = np.concatenate([np.zeros(0), *(block(lengths).ids for lengths in windows)])
        assert ids[: len(expected)].tolist() == expected.tolist()
        assert done.tokens == len(expected)
        assert len(ids) - len(expected) < length, "only the last sequence can have padding"
        documents = [n for lengths in windows for n in lengths if n]
        starts = {*(np.cumsum(documents) - documents).tolist(), *range(0, len(ids), length)} if documents else set()
        assert {p for p in np.flatnonzero(positions == 0).tolist() if p < len(expected)} == starts - {len(expected)}
        unlearned = {p for p in np.flatnonzero(labels == IGNORED).tolist() if p < len(expected)}
        assert unlearned == starts, "every token is learned but those nothing stands before"


def test_positions_of_a_document_begin_again_in_the_next_sequence() -> None:
    found = cut(np.arange(7, dtype=np.int32), np.ones(7, np.bool_), np.array([2, 5]), 4, PAD)
    assert found.position_ids.tolist() == [[0, 1, 0, 1], [0, 1, 2, 0]]
    assert found.labels.tolist() == [[IGNORED, 1, IGNORED, 3], [IGNORED, 5, 6, IGNORED]]


def test_an_empty_split_is_a_shard_without_sequences(store: ObjectStore, tmp_path: Path) -> None:
    for layout in ("sft", "text", "preference", "kto", "prompts"):
        done, (file,) = written(store, tmp_path, layout, [])  # type: ignore[arg-type]
        assert (done.sequences, done.tokens, len(file["input_ids"])) == (0, 0, 0)


def test_a_file_that_is_no_shard_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x10" + b"\0" * 7 + b"not a json header and more")
    with pytest.raises(CorruptObject, match="not a safetensors file"):
        open_shard(tmp_path / "x")


# --- from the book of tokens to the shards of a split --------------------------------------------------------------------


def split(
    store: ObjectStore, folder: Path, layout: Layout, blocks: list[TokenBlock], order: list[int], length: int = 8
) -> tuple[SplitShards, list[dict[str, Any]]]:
    (folder / "book").mkdir()
    book = TokenBook(store, "a/b", folder / "book")
    keys: list[Keys] = []
    for number, one in enumerate(blocks):
        rows = len(one.extra)
        keys.append(np.array([f"{number:08}{row:08}".encode() for row in range(rows)], dtype="S16"))
        book.add(keys[-1], one, measure(one, [13, 24]))
    made = write_split(
        book, np.concatenate(keys)[order], layout, length, ShardWriter(store, folder, layout, length, PAD)
    )
    return made, [open_shard(store.path(digest)) for digest in made.written.files]


def test_rows_come_in_the_order_asked_for_also_twice_and_long_ones_are_left_out_whole(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_work, "WINDOW_TOKENS", 10)
    made, files = split(store, tmp_path, "kto", [block([3, 9, 4]), block([2, 5])], [4, 1, 0, 2, 4])
    ids = np.concatenate([file["input_ids"] for file in files]).tolist()
    assert ids == [10, 11, 12, 13, 14, 0, 1, 2, 20, 21, 22, 23, 10, 11, 12, 13, 14]
    assert (made.rows.kept.tolist(), made.rows.too_long.tolist(), made.rows.longest.tolist()) == (
        [0, 2, 3, 4],
        [1],
        [9],
    )
    assert made.rows.figures.lengths.tolist() == [5, 3, 4, 5]
    assert made.rows.figures.stopped.tolist() == [1, 0, 0, 1]
    assert made.rows.figures.supervised.tolist() == [4, 2, 3, 4]


def test_a_pair_is_left_out_when_one_of_its_answers_is_too_long(store: ObjectStore, tmp_path: Path) -> None:
    pairs = TokenBlock(*(getattr(block([3, 9, 4, 5]), n) for n in ("ids", "learned", "lengths", "turns")), (b"", b""))
    made, (file,) = split(store, tmp_path, "preference", [pairs], [1, 0])
    assert file["input_ids"].tolist() == [20, 21, 22, 23, 30, 31, 32, 33, 34]
    assert (made.rows.kept.tolist(), made.rows.too_long.tolist(), made.rows.longest.tolist()) == ([0], [1], [9])


def test_what_a_grader_reads_comes_with_its_row_in_any_order(store: ObjectStore, tmp_path: Path) -> None:
    notes = (b'{"n":0}', b"", b'{"n":"two"}'), (b'{"n":3}', b'{"n":4}')
    blocks = [block([3, 2, 4], 99, notes[0]), block([2, 5], 99, notes[1])]
    blocks = [replace(one, turns=np.zeros_like(one.turns)) for one in blocks]
    made, (file,) = split(store, tmp_path, "prompts", blocks, [4, 2, 1, 3, 2])
    parts = np.split(file["extra"], file["extra_offsets"][1:-1])
    assert [part.tobytes() for part in parts] == [b'{"n":4}', b'{"n":"two"}', b"", b'{"n":3}', b'{"n":"two"}']
    checks = check_rows(made.rows, "refuse", lambda places: dict.fromkeys(places, ""))
    assert all(check.passed for check in checks), "prompts carry no loss of their own"


def test_a_pair_counts_once_when_one_of_its_answers_does_not_end(store: ObjectStore, tmp_path: Path) -> None:
    one = block([4, 5, 4, 5])
    pairs = TokenBlock(one.ids, one.learned, one.lengths, one.turns, (b"", b""))
    made, _ = split(store, tmp_path, "preference", [pairs], [0, 1])
    stopped = check_rows(made.rows, "refuse", lambda places: {place: f"a:{place}" for place in places})[1]
    assert stopped.numbers == {"rows": 2, "without_stop": 2}
    assert [(row["answers"], row["stopped"]) for row in stopped.rows] == [(2, 1), (2, 0)]


def test_the_checks_of_a_split_name_its_worst_rows(store: ObjectStore, tmp_path: Path) -> None:
    blocks = [block([3, 9, 4, 30]), block([4, 5, 5], learned_from=4)]
    made, _ = split(store, tmp_path, "sft", blocks, [0, 1, 2, 3, 4, 5])
    checks = check_rows(made.rows, "refuse", lambda places: {place: f"a:{place}" for place in places})
    supervised, stopped, truncation = checks
    assert [check.blocks for check in checks] == [True, True, True]
    assert supervised.rows == [{"source": "a:4", "tokens": 4, "learned": 0, "answers": 1, "stopped": 0}]
    assert [row["source"] for row in stopped.rows] == ["a:0", "a:2", "a:4", "a:5"]
    assert [(row["source"], row["tokens"]) for row in truncation.rows] == [("a:3", 30), ("a:1", 9)]
    assert truncation.numbers == {"rows": 6, "left_out": 2, "cut": 0, "max_length": 8, "longest": 30}
    assert not check_rows(made.rows, "drop", lambda places: dict.fromkeys(places, ""))[2].blocks


def test_a_document_longer_than_a_sequence_is_cut_and_not_left_out(store: ObjectStore, tmp_path: Path) -> None:
    made, (file,) = split(store, tmp_path, "text", [block([30, 3], 0)], [0, 1])
    assert made.written.tokens == 33
    assert len(file["input_ids"]) == 5
    truncation = check_rows(made.rows, "refuse", lambda places: dict.fromkeys(places, ""))[2]
    assert truncation.passed


# --- reading -------------------------------------------------------------------------------------------------------------


def corpus(store: ObjectStore, folder: Path, files: int = 5) -> tuple[list[str], int]:
    """Shard files of three sequences each; sequence n holds 10 n ... 10 n + 7."""
    done, opened = written(store, folder, "sft", [block([8] * 3 * files)], size=8 * 12 * 3)
    assert len(opened) == files
    return list(done.files), store.path(done.files[0]).stat().st_size


def first_tokens(reader: ShardReader, count: int, start: Position = BEGIN) -> tuple[list[int], list[Position]]:
    found, positions = [], []
    for position, example in reader.examples(start):
        found.append(int(example["input_ids"][0]) // 10)
        positions.append(position)
        if len(found) == count:
            return found, positions
    raise AssertionError("a reader has no end")


def test_every_epoch_has_every_example_once_and_an_order_of_its_own(store: ObjectStore, tmp_path: Path) -> None:
    files, size = corpus(store, tmp_path)
    plain, _ = first_tokens(ShardReader(store, files, tmp_path / "c", size * 9), 15)
    assert plain == list(range(15))
    shuffled, _ = first_tokens(ShardReader(store, files, tmp_path / "c", size * 9, seed=3), 30)
    assert sorted(shuffled[:15]) == sorted(shuffled[15:]) == list(range(15))
    assert shuffled[:15] != shuffled[15:]
    assert first_tokens(ShardReader(store, files, tmp_path / "d", size * 9, seed=3), 30)[0] == shuffled
    assert first_tokens(ShardReader(store, files, tmp_path / "d", size * 9, seed=4), 30)[0] != shuffled


def test_a_reader_goes_on_at_any_position(store: ObjectStore, tmp_path: Path) -> None:
    files, size = corpus(store, tmp_path)
    whole, positions = first_tokens(ShardReader(store, files, tmp_path / "c", size * 2, seed=1), 40)
    for taken in (1, 2, 3, 14, 15, 16, 31):
        fresh = ShardReader(store, files, tmp_path / f"c{taken}", size * 2, seed=1)
        assert first_tokens(fresh, 9, positions[taken - 1])[0] == whole[taken : taken + 9]
    assert positions[14] == Position(1, 0, 0)


def test_the_cache_stays_below_its_limit_and_what_is_in_it_is_not_fetched_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, size = corpus(store, tmp_path)
    fetched: list[str] = []
    get = store.get_bytes
    monkeypatch.setattr(store, "get_bytes", lambda digest: fetched.append(digest) or get(digest))
    reader = ShardReader(store, files, tmp_path / "c", size * 2)
    held: list[int] = []
    make = reader._fetched

    def watched(*args: Any) -> Path:
        # In the reader's own thread, the only one that adds and deletes.
        path = make(*args)
        held.append(sum(path.stat().st_size for path in (tmp_path / "c").iterdir()))
        return path

    monkeypatch.setattr(reader, "_fetched", watched)
    first_tokens(reader, 30)
    assert size < max(held) <= size * 2
    assert len(fetched) >= 10
    fetched.clear()
    first_tokens(ShardReader(store, files, tmp_path / "big", size * 9), 45)
    assert sorted(fetched) == sorted(files)


def test_a_cache_too_small_for_two_files_and_no_files_are_refused(store: ObjectStore, tmp_path: Path) -> None:
    files, size = corpus(store, tmp_path)
    with pytest.raises(InvalidConfig, match="at least twice the largest file"):
        first_tokens(ShardReader(store, files, tmp_path / "c", size + 1), 9)
    with pytest.raises(InvalidConfig, match="at least one"):
        ShardReader(store, [], tmp_path / "c", size)


def test_a_damaged_or_missing_file_is_an_error_and_nothing_of_it_is_read(store: ObjectStore, tmp_path: Path) -> None:
    files, size = corpus(store, tmp_path)
    path = tmp_path / "store" / "objects" / files[1][:2] / files[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptObject):
        first_tokens(ShardReader(store, files, tmp_path / "c", size * 3), 5)
    path.unlink()
    with pytest.raises(NotFound):
        first_tokens(ShardReader(store, files, tmp_path / "d", size * 3), 5)


def test_flat_layouts_are_read_sequence_by_sequence(store: ObjectStore, tmp_path: Path) -> None:
    notes = (b'{"answer":4}', b"{}")
    done, _ = written(store, tmp_path, "prompts", [block([3, 4], 9, notes)])
    reader = ShardReader(store, done.files, tmp_path / "c", 1 << 20)
    examples = [example for _, (_, example) in zip(range(2), reader.examples(), strict=False)]
    assert [example["input_ids"].tolist() for example in examples] == [[0, 1, 2], [10, 11, 12, 13]]
    assert [json.loads(example["extra"].tobytes()) for example in examples] == [{"answer": 4}, {}]
    assert [int(example["prompt_lengths"]) for example in examples] == [3, 4]


def test_a_corpus_in_s3_is_read_as_from_a_folder(
    store: ObjectStore, tmp_path: Path, s3_endpoint: str, s3_credentials: None
) -> None:
    files, size = corpus(store, tmp_path)
    bucket = open_store(StoreAddress(url="s3://ft/shards", endpoint=s3_endpoint), tmp_path / "objects")
    for digest in files:
        bucket.put_file(store.path(digest))
    local, _ = first_tokens(ShardReader(store, files, tmp_path / "c", size * 2, seed=5), 33)
    remote, positions = first_tokens(ShardReader(bucket, files, tmp_path / "s", size * 2, seed=5), 33)
    assert remote == local
    again = ShardReader(bucket, files, tmp_path / "t", size * 2, seed=5)
    assert first_tokens(again, 10, positions[19])[0] == local[20:30]
    assert not list((tmp_path / "objects").rglob("*")), "the store's own cache, which has no limit, is not used"
