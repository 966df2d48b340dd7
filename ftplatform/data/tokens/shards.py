"""Shard files: what a trainer maps into memory, in safetensors files of bounded size.

=============  ==========================================================================================================
layout         tensors of a file
=============  ==========================================================================================================
sft, text      ``input_ids``, ``labels``, ``position_ids``: int32 [sequences, max_length] (see ``data/tokens/pack.py``)
preference     flat; sequence 2i is the chosen one of pair i, 2i + 1 the rejected one
kto            flat, and ``labels`` uint8 [S]: 1 for a good answer
prompts        flat, and ``extra`` uint8 [E], ``extra_offsets`` int64 [S + 1]: JSON that a grader reads, per prompt
flat           ``input_ids`` int32 [T] and ``learned`` uint8 [T] end to end, ``offsets`` int64 [S + 1] between sequences,
               ``prompt_lengths`` int32 [S]: tokens before the first learned one
=============  ==========================================================================================================

The bytes of a file depend on the tokens, their order and the sizes asked for alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ftplatform.core.errors import CorruptObject, DataRefused
from ftplatform.data.tokens.pack import Packed, cut, pack_tokens
from ftplatform.data.tokens.ragged import starts_of
from ftplatform.data.tokens.tokenize import TokenBlock
from ftplatform.store import ObjectStore

Layout = Literal["sft", "text", "preference", "kto", "prompts"]
_LAYOUTS: dict[frozenset[str], Layout] = {
    frozenset({"chat"}): "sft",
    frozenset({"chat", "text"}): "sft",
    frozenset({"text"}): "text",
    frozenset({"preference"}): "preference",
    frozenset({"labelled"}): "kto",
    frozenset({"prompt"}): "prompts",
}
FILE_BYTES = 256 << 20
_POSITION_BYTES = 12
_DTYPES = {"I32": "<i4", "I64": "<i8", "U8": "u1"}


def layout_of(kinds: Collection[str]) -> Layout:
    """The layout for rows of these kinds; chats and documents can be learned side by side, packed.

    Raises:
        DataRefused: kinds that no training takes together.
    """
    if not kinds:
        return "sft"
    layout = _LAYOUTS.get(frozenset(kinds))
    if layout is None:
        accepted = "; ".join(" and ".join(sorted(k)) for k in _LAYOUTS)
        raise DataRefused(
            f"rows of the kinds {', '.join(sorted(kinds))} stand in one dataset and cannot be trained on together: accepted "
            f"are {accepted}. Put each kind into a dataset of its own; a retry without a change does not help"
        )
    return layout


@dataclass(frozen=True, slots=True)
class Written:
    files: tuple[str, ...]
    """Objects, in order."""
    sequences: int
    """Packed sequences, or the sequences of a flat layout."""
    tokens: int
    supervised: int
    fill: float
    """Share of positions that hold a token; 1 for flat layouts."""


class ShardWriter:
    """Takes tokens in windows and stores files of at most ``file_bytes`` (one sequence more at least)."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Path,
        layout: Layout,
        max_length: int,
        pad_id: int,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._store, self._folder, self._layout = store, folder, layout
        self._max_length, self._pad_id, self._file_bytes = max_length, pad_id, file_bytes
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._rest: TokenBlock | None = None
        self._files: list[str] = []
        self._sequences = self._tokens = self._supervised = self._positions = 0

    def add(self, block: TokenBlock) -> None:
        """Sequences of at most ``max_length`` tokens; documents of the text layout may have any length."""
        if self._layout == "text":
            whole = _joined(self._rest, block)
            full = len(whole.ids) // self._max_length * self._max_length
            self._rest = _tail(whole, full)
            self._packed(
                cut(
                    whole.ids[:full],
                    whole.learned[:full],
                    _clipped(whole.lengths, full),
                    self._max_length,
                    self._pad_id,
                )
            )
        elif self._layout == "sft":
            self._packed(pack_tokens(block.ids, block.learned, block.lengths, self._max_length, self._pad_id))
        else:
            self._flat(block)

    def close(self) -> Written:
        """Store what is left; there is always one file, so that an empty split is a shard too."""
        if self._rest is not None and len(self._rest.ids):
            rest, self._rest = self._rest, None
            self._packed(cut(rest.ids, rest.learned, rest.lengths, self._max_length, self._pad_id))
        if not self._files and not self._waiting:
            none = np.zeros(0, dtype=np.int64)
            empty = TokenBlock(none.astype(np.int32), none.astype(np.bool_), none, none.astype(np.int32), ())
            self._flat(empty) if self._layout not in ("sft", "text") else self._packed(
                pack_tokens(empty.ids, empty.learned, none, self._max_length, self._pad_id)
            )
        if self._waiting:
            self._save(_merged(self._waiting))
        fill = self._tokens / self._positions if self._positions else 0.0
        return Written(tuple(self._files), self._sequences, self._tokens, self._supervised, fill)

    def _packed(self, packed: Packed) -> None:
        self._sequences += packed.sequences
        self._tokens += packed.tokens
        self._supervised += packed.supervised
        self._positions += packed.input_ids.size
        per_file = max(1, self._file_bytes // (_POSITION_BYTES * self._max_length))
        for arrays in self._filled(packed.arrays, per_file):
            self._save(arrays)

    def _filled(self, arrays: dict[str, NDArray[Any]], per_file: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Whole files' worth; what is left waits."""
        self._waiting.append(arrays)
        while sum(len(one["input_ids"]) for one in self._waiting) > per_file:
            merged = _merged(self._waiting)
            yield {name: array[:per_file] for name, array in merged.items()}
            self._waiting = [{name: array[per_file:] for name, array in merged.items()}]

    def _flat(self, block: TokenBlock) -> None:
        """One file per stretch of rows that stays below the bound; windows are smaller than a file."""
        starts = starts_of(block.lengths)
        first = np.full(len(block.lengths), -1, dtype=np.int64)
        at = np.flatnonzero(block.learned)
        owner = np.searchsorted(starts, at, side="right") - 1
        first[owner[::-1]] = at[::-1] - starts[owner[::-1]]
        prompt = np.where(first < 0, block.lengths, first)
        arrays: dict[str, NDArray[Any]] = {
            "input_ids": block.ids,
            "learned": block.learned.astype(np.uint8),
            "lengths": block.lengths,
            "prompt_lengths": prompt.astype(np.int32),
        }
        if self._layout == "kto":
            arrays["labels"] = np.array([extra == b"true" for extra in block.extra], dtype=np.uint8)
        if self._layout == "prompts":
            arrays["extra"] = np.frombuffer(b"".join(block.extra), dtype=np.uint8)
            arrays["extra_lengths"] = np.array([len(extra) for extra in block.extra], dtype=np.int64)
        self._sequences += len(block.lengths)
        self._tokens += len(block.ids)
        self._positions += len(block.ids)
        self._supervised += int(block.learned.sum())
        size = sum(array.nbytes for array in arrays.values())
        if self._waiting and size + sum(a.nbytes for one in self._waiting for a in one.values()) > self._file_bytes:
            self._save(_merged(self._waiting))
            self._waiting = []
        self._waiting.append(arrays)

    def _save(self, arrays: dict[str, NDArray[Any]]) -> None:
        out = dict(arrays)
        for name in ("", "extra_"):
            if f"{name}lengths" in out:
                lengths = out.pop(f"{name}lengths")
                out[f"{name}offsets"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        path = self._folder / "shard.safetensors"
        # safetensors writes an array's memory as it lies, so a view would write the wrong bytes.
        save_file({name: np.ascontiguousarray(array) for name, array in out.items()}, path)
        self._files.append(self._store.put_file(path))
        path.unlink()


def open_shard(path: Path) -> dict[str, NDArray[Any]]:
    """A file's arrays, read-only and mapped: nothing is read before it is used.

    The format is a little-endian uint64, the size of a JSON header, the header, and the tensors at its ``data_offsets``.

    Raises:
        CorruptObject: the file is not in the format.
    """
    raw = np.memmap(path, np.uint8, "r")
    try:
        begin = 8 + int(raw[:8].view("<u8")[0])
        header = json.loads(raw[8:begin].tobytes())
        header.pop("__metadata__", None)
        return {
            name: raw[begin + at["data_offsets"][0] : begin + at["data_offsets"][1]]
            .view(_DTYPES[at["dtype"]])
            .reshape(at["shape"])
            for name, at in header.items()
        }
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise CorruptObject(
            f"{path} is not a safetensors file of shards ({error!r}); accepted are the files that tokenized_shards made. Delete it "
            "and materialize the asset again; a retry without that does not help"
        ) from error


def _merged(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return parts[0] if len(parts) == 1 else {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def _joined(first: TokenBlock | None, second: TokenBlock) -> TokenBlock:
    if first is None:
        return second
    return TokenBlock(
        np.concatenate([first.ids, second.ids]),
        np.concatenate([first.learned, second.learned]),
        np.concatenate([first.lengths, second.lengths]),
        np.concatenate([first.turns, second.turns]),
        first.extra + second.extra,
    )


def _clipped(lengths: NDArray[np.int64], upto: int) -> NDArray[np.int64]:
    """Tokens of each document among the first ``upto``."""
    return np.clip(upto - starts_of(lengths), 0, lengths)


def _tail(block: TokenBlock, start: int) -> TokenBlock:
    """What of the documents comes after the first ``start`` tokens."""
    left = block.lengths - _clipped(block.lengths, start)
    kept = left > 0
    return TokenBlock(block.ids[start:], block.learned[start:], left[kept], block.turns[kept], ())
