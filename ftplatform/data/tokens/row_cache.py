"""Tokens found again by what a row says: a dataset that grew by one row in a hundred is tokenized by one in a hundred.

Every row has a key, the hash of its content without where it came from. Blocks of tokenized rows are objects in the
store; a document per block, under the name of everything else that decides the tokens (tokenizer, template, code), names
the block and its keys. So rows are found whatever order or file they stand in now, and a run that was killed goes on
from the blocks it had finished. Lengths and packing are applied afterwards and are no part of the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ftplatform.data.tokens.ragged import ragged, starts_of, sums
from ftplatform.data.tokens.tokenize import TokenBlock
from ftplatform.store import ObjectStore

Keys = NDArray[np.bytes_]
"""[N] of 16 bytes."""
_KEY = "S16"
_ELSEWHERE = ("source", "tags")


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


@dataclass(frozen=True, slots=True)
class Sequences:
    """Figures of S sequences, without their tokens."""

    lengths: NDArray[np.int64]
    """[S]"""
    turns: NDArray[np.int32]
    """[S] turns that carry loss."""
    supervised: NDArray[np.int64]
    """[S] tokens that carry loss and can be predicted: all learned ones but the first token."""
    stops: NDArray[np.int64]
    """[S] learned stop tokens."""


class TokenBook:
    """The blocks under one ``name``. Tokens in use lie in two flat files in ``folder``, five bytes each, mapped on read."""

    def __init__(self, store: ObjectStore, name: str, folder: Path, stop_ids: Iterable[int]) -> None:
        self._store, self._name = store, name
        self._ids, self._learned = folder / "ids", folder / "learned"
        self._ids.touch()
        self._learned.touch()
        self._stop_ids = np.array(sorted(stop_ids), dtype=np.int32)
        self._blocks: list[str] = []
        self._firsts: dict[int, int] = {}
        self._keys: list[Keys] = []
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]] = []
        self._extra: list[bytes] = []
        self._loaded = 0
        for document in store.list_docs(f"tokens/{name}"):
            found = store.get_doc(document)
            if store.has(found["block"]) and store.has(found["keys"]):
                self._blocks.append(found["block"])
                self._keys.append(np.frombuffer(store.get_bytes(found["keys"]), dtype=_KEY))

    def index(self) -> Index:
        """Of all rows whose tokens are here now."""
        every = np.concatenate([np.zeros(0, _KEY), *self._keys])
        order = np.argsort(every, kind="stable")
        return Index(every[order], order)

    def add(self, keys: Keys, block: TokenBlock) -> None:
        """Store a block; from now on, also after a kill, its rows are known."""
        digest = self._store.put_bytes(to_bytes(block))
        listed = self._store.put_bytes(keys.tobytes())
        self._store.put_doc(f"tokens/{self._name}/{digest}", {"block": digest, "keys": listed})
        self._firsts[len(self._blocks)] = self._append(block)
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
                self._firsts[number] = self._append(from_bytes(self._store.get_bytes(self._blocks[number])))
        firsts = np.array([self._firsts.get(number, -1) for number in range(len(ends))], dtype=np.int64)
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
        rows: NDArray[np.int64] = firsts[block] + places - begins[block]
        return rows

    def sequences(self) -> Sequences:
        """Of all rows read so far, in the order of their row numbers."""
        none = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        return Sequences(*(np.concatenate(column) for column in zip(none, *self._parts, strict=True)))

    def take(self, numbers: NDArray[np.int64], lengths: NDArray[np.int64], per_row: int) -> TokenBlock:
        """The sequences with these numbers, in that order; ``lengths`` are those of all sequences."""
        ids = np.memmap(self._ids, np.int32, "r") if self._ids.stat().st_size else np.zeros(0, np.int32)
        learned = np.memmap(self._learned, np.bool_, "r") if self._learned.stat().st_size else np.zeros(0, np.bool_)
        at = ragged(starts_of(lengths)[numbers], lengths[numbers])
        turns = np.zeros(len(numbers), dtype=np.int32)
        extra = tuple(self._extra[i // per_row] for i in numbers[::per_row].tolist())
        return TokenBlock(ids[at], learned[at], lengths[numbers], turns, extra)

    def _append(self, block: TokenBlock) -> int:
        """Put the block's tokens into the flat files; returns the number of its first row."""
        with self._ids.open("ab") as ids, self._learned.open("ab") as learned:
            ids.write(block.ids.tobytes())
            learned.write(block.learned.tobytes())
        counted = block.learned.copy()
        counted[starts_of(block.lengths)[block.lengths > 0]] = False
        stops = block.learned & np.isin(block.ids, self._stop_ids)
        self._parts.append(
            (
                block.lengths,
                block.turns,
                sums(counted.astype(np.int64), block.lengths),
                sums(stops.astype(np.int64), block.lengths),
            )
        )
        first = self._loaded
        self._loaded += len(block.extra)
        self._extra += block.extra
        return first


def to_bytes(block: TokenBlock) -> bytes:
    """Two bytes a token where the vocabulary allows it, and a bit for what is learned."""
    small = not len(block.ids) or int(block.ids.max()) < 1 << 16
    data: bytes = save(
        {
            "ids": block.ids.astype(np.uint16) if small else block.ids,
            "learned": np.packbits(block.learned),
            "lengths": block.lengths.astype(np.int32),
            "turns": block.turns,
            "extra": np.frombuffer(b"".join(block.extra), dtype=np.uint8),
            "extra_lengths": np.array([len(one) for one in block.extra], dtype=np.int32),
        }
    )
    return data


def from_bytes(data: bytes) -> TokenBlock:
    arrays = load(data)
    ids = arrays["ids"].astype(np.int32)
    text, ends = arrays["extra"].tobytes(), np.cumsum(arrays["extra_lengths"]).tolist()
    extra = tuple(text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)) if ends else ()
    learned = np.unpackbits(arrays["learned"], count=len(ids)).astype(np.bool_)
    return TokenBlock(ids, learned, arrays["lengths"].astype(np.int64), arrays["turns"], extra)
