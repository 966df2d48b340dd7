from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftplatform.core.digests import digest_bytes
from ftplatform.core.errors import CorruptObject, InvalidConfig, InvalidKey, NotFound
from ftplatform.core.payload import StoreAddress
from ftplatform.store import ObjectStore, open_store
from ftplatform.store.cache import cached


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Both kinds of storage keep the same promises."""
    if request.param == "local":
        return open_store(StoreAddress(url=(tmp_path / "store").as_uri()))
    request.getfixturevalue("s3_credentials")
    endpoint = request.getfixturevalue("s3_endpoint")
    return open_store(StoreAddress(url=f"s3://ft/{tmp_path.name}", endpoint=endpoint), cache=tmp_path / "cache")


def test_an_object_is_found_by_its_content(store: ObjectStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"some bytes")
    assert digest == digest_bytes(b"some bytes")
    assert store.get_bytes(digest) == b"some bytes"
    assert store.path(digest).read_bytes() == b"some bytes"
    (tmp_path / "file").write_bytes(b"some bytes")
    assert store.put_file(tmp_path / "file") == digest
    assert store.has(digest)


def test_what_is_absent_is_said_to_be_absent(store: ObjectStore) -> None:
    for look in (store.get_bytes, store.path):
        with pytest.raises(NotFound):
            look("0" * 64)
    with pytest.raises(NotFound):
        store.get_doc("no/such")
    assert store.find_doc("no/such") is None
    assert not store.has("0" * 64)


def test_a_tree_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.bin").write_bytes(bytes(range(256)))
    digest = store.put_tree(folder)
    out = store.fetch_tree(digest, tmp_path / "out")
    assert (out / "a.txt").read_text() == "a"
    assert (out / "sub" / "b.bin").read_bytes() == bytes(range(256))
    (folder / "a.txt").write_text("b")
    assert store.put_tree(folder) != digest


def test_documents_are_listed_below_their_prefix_only(store: ObjectStore) -> None:
    for name in ("jobs/1/a", "jobs/1/b", "jobs/10/a"):
        store.put_doc(name, {"name": name})
    assert store.list_docs("jobs/1") == ["jobs/1/a", "jobs/1/b"]
    store.put_doc("jobs/1/a", {"name": "replaced"})
    assert store.get_doc("jobs/1/a") == {"name": "replaced"}
    store.delete_doc("jobs/1/a")
    assert store.list_docs("jobs/1") == ["jobs/1/b"]


def test_a_cached_stage_works_once(store: ObjectStore) -> None:
    calls: list[int] = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"answer": 42}

    assert cached(store, "stage", "0" * 64, work) == ({"answer": 42}, False)
    assert cached(store, "stage", "0" * 64, work) == ({"answer": 42}, True)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["../x", "a/../b", "/a", "a//b", "a/|", "a/" + "x" * 200])
def test_a_document_name_cannot_leave_its_place(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidKey):
        store.put_doc(name, {})


def test_changed_bytes_are_noticed_on_reading(tmp_path: Path) -> None:
    store = open_store(StoreAddress(url=tmp_path.as_uri()))
    digest = store.put_bytes(b"right")
    (tmp_path / "objects" / digest[:2] / digest).write_bytes(b"wrong")
    with pytest.raises(CorruptObject):
        store.get_bytes(digest)
    with pytest.raises(CorruptObject):
        store.path(digest)


def test_a_write_that_fails_leaves_nothing_visible(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the kernel refuses the write half way."""
    import resource
    import signal

    store = open_store(StoreAddress(url=tmp_path.as_uri()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.put_bytes(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [name for _, _, files in os.walk(tmp_path) for name in files] == []
    digest = store.put_bytes(b"x" * 5000)
    assert store.get_bytes(digest) == b"x" * 5000


@pytest.mark.parametrize("url", ["", "/folder", "http://host/x", "s3:///x", "file://host/x"])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig, match="accepted"):
        open_store(StoreAddress(url=url))
