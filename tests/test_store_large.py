"""Objects larger than memory: copied and checked in blocks, and fetched once for all processes of a machine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ftplatform.core.errors import CorruptObject, NotFound
from ftplatform.core.payload import StoreAddress
from ftplatform.store import ObjectStore, base, open_store
from ftplatform.store.patience import PatientBlobs
from ftplatform.store.shared import SharedTrees

BLOCK = 1 << 10


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(base, "BLOCK", BLOCK)
    if request.param == "local":
        return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))
    request.getfixturevalue("s3_credentials")
    endpoint = request.getfixturevalue("s3_endpoint")
    return open_store(StoreAddress(url=f"s3://ft/{tmp_path.name}", endpoint=endpoint), cache=tmp_path / "cache")


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_together_are_the_object(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    digest = store.put_bytes(data)
    blocks = list(store.blocks(digest))
    assert b"".join(blocks) == data
    assert max(map(len, blocks), default=0) <= BLOCK
    assert store.sound(digest)


def test_blocks_of_nothing_are_not_found(store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        list(store.blocks("0" * 64))
    with pytest.raises(NotFound):
        store.sound("0" * 64)


def test_a_tree_is_laid_out_in_blocks_and_without_what_is_not_needed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights").write_bytes(os.urandom(5 * BLOCK + 7))
    (folder / "sub" / "optimizer.pt").write_bytes(b"states")
    digest = store.put_tree(folder)
    asked, part = [], store._blobs.part
    monkeypatch.setattr(store._blobs, "part", lambda *where: asked.append(where) or part(*where))
    out = store.fetch_tree(digest, tmp_path / "out", without=("sub/optimizer.pt",))
    assert [path.name for path in out.rglob("*")] == ["weights"]
    assert (out / "weights").read_bytes() == (folder / "weights").read_bytes()
    assert [where[1] for where in asked] == [n * BLOCK for n in range(6)]


def test_a_block_that_is_away_is_asked_for_again_and_not_the_ones_before(tmp_path: Path) -> None:
    plain = open_store(StoreAddress(url=tmp_path.as_uri()))
    digest = plain.put_bytes(os.urandom(3 * BLOCK))
    asked: list[int] = []
    blobs, part = plain._blobs, plain._blobs.part

    def flaky(name: str, start: int, size: int) -> bytes:
        asked.append(start)
        if asked.count(start) == 1 and start:
            raise ConnectionResetError("away")
        return part(name, start, BLOCK)

    blobs.part = flaky  # type: ignore[method-assign]
    patient = ObjectStore(PatientBlobs(blobs, lambda line: None))
    original, base.BLOCK = base.BLOCK, BLOCK
    try:
        assert b"".join(patient.blocks(digest)) == plain.get_bytes(digest)
    finally:
        base.BLOCK = original
    assert asked == [0, BLOCK, BLOCK, 2 * BLOCK, 2 * BLOCK, 3 * BLOCK, 3 * BLOCK]


def test_changed_bytes_are_noticed_after_the_last_block_and_leave_no_file(tmp_path: Path) -> None:
    store = open_store(StoreAddress(url=(tmp_path / "store").as_uri()))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "weights").write_bytes(b"right")
    digest = store.put_tree(tmp_path / "in")
    (file,) = store.tree(digest).files
    (tmp_path / "store" / "objects" / file.digest[:2] / file.digest).write_bytes(b"wrong")
    assert not store.sound(file.digest)
    with pytest.raises(CorruptObject, match="materialize its asset again"):
        store.fetch_tree(digest, tmp_path / "out")
    assert not (tmp_path / "out" / "weights").exists()


def test_processes_of_a_machine_fetch_a_tree_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(StoreAddress(url=(tmp_path / "store").as_uri()))
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "weights").write_bytes(os.urandom(1000))
    (tmp_path / "in" / "optimizer.pt").write_bytes(b"states")
    digest = store.put_tree(tmp_path / "in")
    fetched, fetch = [], ObjectStore.fetch_tree
    monkeypatch.setattr(ObjectStore, "fetch_tree", lambda *call: fetched.append(call[1]) or fetch(*call))

    def one(rank: int) -> None:
        SharedTrees(store, tmp_path / "shared").fetch_tree(digest, tmp_path / f"rank{rank}")

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [digest]
    for rank in range(4):
        found = tmp_path / f"rank{rank}" / "sub" / "weights"
        assert found.is_symlink()
        assert found.read_bytes() == (tmp_path / "in" / "sub" / "weights").read_bytes()
    one(0)
    part = SharedTrees(store, tmp_path / "shared").fetch_tree(digest, tmp_path / "part", without=("optimizer.pt",))
    assert [path.name for path in part.rglob("*")] == ["sub", "weights"]
    assert len(fetched) == 2, "another selection is another folder"


def test_a_fetch_that_was_killed_half_way_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(StoreAddress(url=(tmp_path / "store").as_uri()))
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_text(name)
    digest = store.put_tree(tmp_path / "in")
    shared, blocks = SharedTrees(store, tmp_path / "shared"), ObjectStore.blocks
    last = store.tree(digest).files[-1].digest

    def killed(self: ObjectStore, wanted: str) -> object:
        if wanted == last:
            raise KeyboardInterrupt
        return blocks(self, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "blocks", killed)
        with pytest.raises(KeyboardInterrupt):
            shared.fetch_tree(digest, tmp_path / "first")
    assert sorted(path.name for path in shared.fetch_tree(digest, tmp_path / "second").iterdir()) == ["a", "b"]
