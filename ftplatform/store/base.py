"""What every store can do, written over four primitive operations on names.

Objects live under ``objects/ab/abcd...`` by SHA-256, are written once and checked on every read. Documents are small JSON values
under ``docs/<name>.json``: nothing in the store is found except through one, and a document is written only after every object
it names, so a half-written thing is never visible. A tree is an object that lists the files of a folder with their digests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from ftplatform.core.digests import canonical_json, digest_bytes, digest_file
from ftplatform.core.errors import Conflict, CorruptObject, InvalidKey, NotFound
from ftplatform.core.frozen import Frozen

BLOCK = 1 << 25
"""Bytes of an object that are in memory at a time where it is copied or checked: a request to S3 takes as long as 1 MB of it."""
_DOC_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@=-]{0,127}")


class TreeFile(Frozen):
    path: str
    digest: str
    size: int = Field(ge=0)


class Tree(Frozen):
    """A folder by content."""

    files: tuple[TreeFile, ...]


class Blobs(Protocol):
    """The primitives a kind of storage must offer; names use ``/`` and never start with one."""

    def put(self, name: str, data: bytes) -> None:
        """Write whole or not at all; replaces."""

    def put_path(self, name: str, path: Path) -> None:
        """The same from a file, without reading it into memory."""

    def get(self, name: str) -> bytes:
        """Raises NotFound."""

    def part(self, name: str, start: int, size: int) -> bytes:
        """At most ``size`` bytes from ``start`` on, none behind the end; raises NotFound."""

    def get_path(self, name: str) -> Path:
        """A local, read-only file with the content; raises NotFound."""

    def exists(self, name: str) -> bool: ...

    def list(self, prefix: str) -> Iterator[str]:
        """Names that start with ``prefix``, sorted."""

    def delete(self, name: str) -> None:
        """Absent is fine."""


class ObjectStore:
    """Content-addressed objects, trees and named documents over ``blobs``."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    # Objects

    def put_bytes(self, data: bytes) -> str:
        """Store ``data`` and return its digest; already there means nothing is written."""
        digest = digest_bytes(data)
        name = _object_name(digest)
        if not self._blobs.exists(name):
            self._blobs.put(name, data)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's content and return its digest."""
        digest = digest_file(path)
        name = _object_name(digest)
        if not self._blobs.exists(name):
            self._blobs.put_path(name, path)
            if digest_file(path) != digest:
                self._blobs.delete(name)
                raise Conflict(f"{path} changed while it was being stored: store it again when it is at rest")
        return digest

    def put_json(self, value: Any) -> str:
        """Store ``value`` in canonical JSON; the digest equals ``digest_json(value)``."""
        return self.put_bytes(canonical_json(value))

    def get_bytes(self, digest: str) -> bytes:
        """The object's bytes.

        Raises:
            NotFound: no such object.
            CorruptObject: the bytes stored under the digest are others.
        """
        data = self._blobs.get(_object_name(digest))
        if digest_bytes(data) != digest:
            raise _corrupt(digest)
        return data

    def blocks(self, digest: str) -> Iterator[bytes]:
        """The object's bytes in blocks of ``BLOCK``, for objects larger than memory; the digest is checked after the last.

        Raises:
            NotFound: no such object.
            CorruptObject: after the last block, the bytes stored under the digest are others.
        """
        name, found, start = _object_name(digest), hashlib.sha256(), 0
        while block := self._blobs.part(name, start, BLOCK):
            found.update(block)
            start += len(block)
            yield block
            if len(block) < BLOCK:
                break
        if found.hexdigest() != digest:
            raise _corrupt(digest)

    def sound(self, digest: str) -> bool:
        """Whether the bytes stored under the digest are its own. Raises NotFound."""
        try:
            for _ in self.blocks(digest):
                pass
        except CorruptObject:
            return False
        return True

    def get_json(self, digest: str) -> Any:
        return json.loads(self.get_bytes(digest))

    def path(self, digest: str) -> Path:
        """A local read-only file with the object's content, checked against the digest; meant for memory-mapping."""
        path = self._blobs.get_path(_object_name(digest))
        if digest_file(path) != digest:
            raise CorruptObject(
                f"object {digest}: the file {path} does not match its digest; delete it and materialize its asset again"
            )
        return path

    def has(self, digest: str) -> bool:
        return self._blobs.exists(_object_name(digest))

    # Trees

    def put_tree(self, folder: Path) -> str:
        """Store every regular file below ``folder`` and return the digest of the tree object."""
        files = [
            TreeFile(path=path.relative_to(folder).as_posix(), digest=self.put_file(path), size=path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        return self.put_json(Tree(files=tuple(files)).model_dump(mode="json"))

    def tree(self, digest: str) -> Tree:
        return Tree.model_validate(self.get_json(digest))

    def fetch_tree(self, digest: str, into: Path, without: Collection[str] = ()) -> Path:
        """Lay the tree out below ``into`` (made when absent) as copies of its files, all but ``without``; return ``into``.

        Copies rather than links, because a library that writes into its model folder would otherwise change the store.

        Raises:
            NotFound, CorruptObject: the tree or one of its files; files before it are there.
        """
        for file in self.tree(digest).files:
            if file.path in without:
                continue
            target = into / file.path
            if not target.resolve().is_relative_to(into.resolve()):
                raise CorruptObject(f"tree {digest} names {file.path!r}, which lies outside its folder; refused")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("wb") as stream:
                    for block in self.blocks(file.digest):
                        stream.write(block)
            except (CorruptObject, NotFound):
                target.unlink()
                raise
        return into

    # Documents

    def put_doc(self, name: str, value: Any) -> None:
        """Write or replace the document ``name``; everything it names must be stored already."""
        self._blobs.put(_doc_name(name), canonical_json(value))

    def get_doc(self, name: str) -> Any:
        """Raises NotFound."""
        return json.loads(self._blobs.get(_doc_name(name)))

    def find_doc(self, name: str) -> Any | None:
        """The document, or None where there is none."""
        try:
            return self.get_doc(name)
        except NotFound:
            return None

    def list_docs(self, prefix: str) -> list[str]:
        """Names of the documents below ``prefix`` (whole path parts), sorted."""
        start = f"docs/{prefix.rstrip('/')}/"
        return [name.removeprefix("docs/").removesuffix(".json") for name in self._blobs.list(start)]

    def delete_doc(self, name: str) -> None:
        self._blobs.delete(_doc_name(name))


def _corrupt(digest: str) -> CorruptObject:
    return CorruptObject(
        f"object {digest}: the stored bytes do not match their digest; delete {_object_name(digest)} from the store and "
        "materialize its asset again, or restore it from a backup (a retry does not help)"
    )


def _object_name(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InvalidKey(f"{digest!r} is not a digest: accepted are 64 characters of 0-9 and a-f")
    return f"objects/{digest[:2]}/{digest}"


def _doc_name(name: str) -> str:
    if not all(_DOC_PART.fullmatch(part) for part in name.split("/")):
        raise InvalidKey(f"{name!r} is not a document name: parts of letters, digits and '._@=-', separated by '/'")
    return f"docs/{name}.json"
