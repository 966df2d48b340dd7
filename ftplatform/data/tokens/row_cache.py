"""Tokens found again by what a row says: a dataset that grew by one row in a hundred is tokenized by one in a hundred.

Every row has a key, the hash of its content without where it came from. Blocks of tokenized rows are objects in the
store; a document per block, ``tokens/<tenant>/<dataset>/<digest of everything else that decides the tokens>/<block>`` (tokenizer,
template, stop tokens, code), names the block and its keys. So rows are found whatever order or file they stand in now, and a run that was killed goes on
from the blocks it had finished. Lengths and packing are applied afterwards and are no part of the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ftplatform.data.tokens.figures import Figures, joined
from ftplatform.data.tokens.ragged import ragged, starts_of
from ftplatform.data.tokens.tokenize import TokenBlock
from ftplatform.store import ObjectStore

Keys = NDArray[np.bytes_]
"""[N] of 16 bytes."""
_KEY = "S16"
_ELSEWHERE = ("source", "tags")
_DOCS = "tokens"
_FILES = ("ids", "learned", "extra")


def keys_of(lines: Iterable[bytes]) -> tuple[Keys, set[str]]:
    """The keys of canonical JSON lines, and their kinds: two rows share a key exactly when they say the same."""
    found, kinds = bytearray(), set()
    for line in lines:
        value = orjson.loads(line)
        for name in _ELSEWHERE:
            value.pop(name, None)
        kinds.add(value.get("kind", "chat"))
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        found += hashlib.blake2b(text, digest_size=16).digest()
    return np.frombuffer(bytes(found), dtype=_KEY), kinds


@dataclass(frozen=True, slots=True)
class Index:
    """Keys and where they stand; does not change when blocks are added."""

    ordered: Keys
    order: NDArray[np.int64]

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """[N]: the place of each key, -1 for one that is not there."""
        if not len(self.ordered):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.ordered, keys), len(self.ordered) - 1)
        return np.where(self.ordered[at] == keys, self.order[at], -1)


class TokenBook:
    """The blocks under one ``name``. Tokens and extras in use lie in flat files in ``folder``, five bytes a token, mapped on read;
    in memory stay about 60 bytes a row.
    """

    def __init__(self, store: ObjectStore, name: str, folder: Path) -> None:
        self._store, self._name, self._folder = store, name, folder
        for kind in _FILES:
            (folder / kind).touch()
        self._blocks: list[str] = []
        self._firsts: dict[int, int] = {}
        self._keys: list[Keys] = []
        self._figures: list[Figures] = []
        self._extra_lengths: list[NDArray[np.int64]] = []
        self._loaded = 0
        for document in store.list_docs(f"{_DOCS}/{name}"):
            found = store.get_doc(document)
            if store.has(found["block"]) and store.has(found["keys"]):
                self._blocks.append(found["block"])
                self._keys.append(np.frombuffer(store.get_bytes(found["keys"]), dtype=_KEY))

    def index(self) -> Index:
        """Of all rows whose tokens are here now."""
        every = np.concatenate([np.zeros(0, _KEY), *self._keys])
        order = np.argsort(every, kind="stable")
        return Index(every[order], order)

    def add(self, keys: Keys, block: TokenBlock, figures: Figures) -> None:
        """Store a block; from now on, also after a kill, its rows are known."""
        digest = self._store.put_bytes(to_bytes(block, figures))
        listed = self._store.put_bytes(keys.tobytes())
        self._store.put_doc(f"{_DOCS}/{self._name}/{digest}", {"block": digest, "keys": listed})
        self._firsts[len(self._blocks)] = self._append(block, figures)
        self._blocks.append(digest)
        self._keys.append(keys)

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """[N] row numbers for ``take``; reads the blocks that hold them. All keys must be known."""
        places = self.index().find(keys)
        assert (places >= 0).all()
        ends = np.cumsum([len(k) for k in self._keys])
        block = np.searchsorted(ends, places, side="right")
        for number in np.unique(block).tolist():
            if number not in self._firsts:
                self._firsts[number] = self._append(*from_bytes(self._store.get_bytes(self._blocks[number])))
        firsts = np.array([self._firsts.get(number, -1) for number in range(len(ends))], dtype=np.int64)
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
        rows: NDArray[np.int64] = firsts[block] + places - begins[block]
        return rows

    def figures(self) -> Figures:
        """Of all sequences read so far, in the order of their row numbers."""
        if len(self._figures) != 1:
            self._figures = [joined(self._figures)]
            self._extra_lengths = [np.concatenate([np.zeros(0, np.int64), *self._extra_lengths])]
        return self._figures[0]

    def take(self, numbers: NDArray[np.int64], per_row: int) -> TokenBlock:
        """The sequences with these numbers, in that order; those of a row stand side by side."""
        figures = self.figures()
        lengths = figures.lengths[numbers]
        at = ragged(starts_of(figures.lengths)[numbers], lengths)
        rows = numbers[::per_row] // per_row
        sizes = self._extra_lengths[0][rows]
        text = self._mapped("extra", np.uint8)[ragged(starts_of(self._extra_lengths[0])[rows], sizes)].tobytes()
        ids, learned = self._mapped("ids", np.int32)[at], self._mapped("learned", np.bool_)[at]
        return TokenBlock(ids, learned, lengths, figures.turns[numbers], _cut(text, sizes))

    def _mapped(self, kind: str, dtype: Any) -> NDArray[Any]:
        path = self._folder / kind
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)

    def _append(self, block: TokenBlock, figures: Figures) -> int:
        """Put the block's tokens into the flat files; returns the number of its first row."""
        for kind, data in zip(
            _FILES, (block.ids.tobytes(), block.learned.tobytes(), b"".join(block.extra)), strict=True
        ):
            with (self._folder / kind).open("ab") as stream:
                stream.write(data)
        self._figures.append(figures)
        self._extra_lengths.append(np.array([len(one) for one in block.extra], dtype=np.int64))
        first = self._loaded
        self._loaded += len(block.extra)
        return first


def documents_of(store: ObjectStore, dataset: str) -> list[str]:
    """Names of the documents through which the tokens of a dataset's rows are found, of every base model that read it."""
    return store.list_docs(f"{_DOCS}/{dataset}")


def forget(store: ObjectStore, dataset: str) -> list[str]:
    """Drop every kept token of a dataset; its rows are tokenized again when they are next asked for.

    Gives the objects (blocks of tokens, and their lists of keys) that no kept block names any more. Their bytes still stand in
    the store, which deletes documents and no objects: whoever erases removes these too.
    """
    dropped = documents_of(store, dataset)
    named = {digest for name in dropped for digest in store.get_doc(name).values()}
    for name in dropped:
        store.delete_doc(name)
    if named:
        # The same rows in another dataset are the same objects.
        named -= {digest for name in store.list_docs(_DOCS) for digest in store.get_doc(name).values()}
    return sorted(named)


def to_bytes(block: TokenBlock, figures: Figures) -> bytes:
    """Two bytes a token where the vocabulary allows it, and a bit for what is learned."""
    small = not len(block.ids) or int(block.ids.max()) < 1 << 16
    data: bytes = save(
        {
            "ids": block.ids.astype(np.uint16) if small else block.ids,
            "learned": np.packbits(block.learned),
            "lengths": block.lengths.astype(np.int32),
            "turns": block.turns,
            "supervised": figures.supervised,
            "stopped": figures.stopped,
            "unended": figures.unended.astype(np.uint8),
            "extra": np.frombuffer(b"".join(block.extra), dtype=np.uint8),
            "extra_lengths": np.array([len(one) for one in block.extra], dtype=np.int32),
        }
    )
    return data


def from_bytes(data: bytes) -> tuple[TokenBlock, Figures]:
    arrays = load(data)
    ids, lengths, turns = arrays["ids"].astype(np.int32), arrays["lengths"].astype(np.int64), arrays["turns"]
    learned = np.unpackbits(arrays["learned"], count=len(ids)).astype(np.bool_)
    extra = _cut(arrays["extra"].tobytes(), arrays["extra_lengths"])
    figures = Figures(lengths, turns, arrays["supervised"], arrays["stopped"], arrays["unended"].astype(np.bool_))
    return TokenBlock(ids, learned, lengths, turns, extra), figures


def _cut(text: bytes, lengths: NDArray[Any]) -> tuple[bytes, ...]:
    ends = np.cumsum(lengths).tolist()
    return tuple(text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)) if ends else ()
