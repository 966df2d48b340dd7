"""Rows of tokens -> full sequences: best-fit decreasing, documents kept whole and apart.

Best-fit decreasing puts each row, longest first, where the least room is left over; it needs at most 11/9 of the fewest
possible sequences plus a constant (Johnson 1974). Rows of one length are placed together, so the work grows with the
number of lengths and not with the number of rows. Rows are never cut, and no prediction crosses from one into the
next: the first label of each is ignored and positions start again, from which attention kernels and models tell
documents apart.

A text for continued pre-training is cut instead: `cut` joins documents end to end and fills every sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ftplatform.core.errors import DataRefused
from ftplatform.data.tokens.ragged import ragged, starts_of
from ftplatform.data.tokens.tokenize import IGNORED, TokenizedRow

Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays of shape [sequences, max_length], int32."""

    input_ids: Array
    labels: Array
    """-100 without loss: prompts, padding and the first token of every document."""
    position_ids: Array
    """0, 1, ... within each document; the padding at the end of a sequence is a document of its own."""
    documents: int
    tokens: int
    """Without padding."""

    @property
    def sequences(self) -> int:
        return len(self.input_ids)

    @property
    def supervised(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def fill(self) -> float:
        """Share of positions that hold a token; 0 for no sequence."""
        return self.tokens / self.input_ids.size if self.input_ids.size else 0.0

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"input_ids": self.input_ids, "labels": self.labels, "position_ids": self.position_ids}

    def to_bytes(self) -> bytes:
        """A safetensors file; the same arrays give the same bytes."""
        data: bytes = save(self.arrays)
        return data


def pack(rows: Sequence[TokenizedRow], max_length: int, pad_id: int) -> Packed:
    """Pack rows into sequences of ``max_length``; the result depends on the rows and their order alone.

    Raises:
        DataRefused: a row is empty or longer than ``max_length``.
    """
    for row in rows:
        if not 0 < len(row.input_ids) <= max_length:
            raise DataRefused(
                f"{row.source} has {len(row.input_ids)} tokens and cannot be packed: accepted are 1 to {max_length}"
            )
    none = np.zeros(0, dtype=np.int32)
    ids = np.concatenate([none, *(row.input_ids for row in rows)])
    learned = np.concatenate([none, *(row.labels for row in rows)]) != IGNORED
    return pack_tokens(ids, learned, np.array([len(row.input_ids) for row in rows], np.int64), max_length, pad_id)


def pack_tokens(
    ids: Array, learned: NDArray[np.bool_], lengths: NDArray[np.int64], max_length: int, pad_id: int
) -> Packed:
    """Pack documents that stand end to end: ``ids`` and ``learned`` [T], ``lengths`` [N], each 1 to ``max_length``."""
    bins = assign(lengths, max_length)
    order = np.argsort(bins, kind="stable")
    sizes = lengths[order]
    used = np.bincount(bins, weights=lengths).astype(np.int64)
    gaps = np.arange(len(used)) * max_length - starts_of(used)
    source = ragged(starts_of(lengths)[order], sizes)
    return _laid_out(
        ids[source],
        learned[source],
        starts_of(sizes) + gaps[bins[order]],
        sizes,
        (len(used), max_length),
        pad_id,
        len(lengths),
    )


def cut(ids: Array, learned: NDArray[np.bool_], lengths: NDArray[np.int64], max_length: int, pad_id: int) -> Packed:
    """Cut documents that stand end to end into full sequences; only the last one can hold padding.

    A document that goes on in the next sequence is there a document of its own: nothing before it can be attended to.
    """
    count = -(-len(ids) // max_length)
    places = np.union1d(starts_of(lengths)[lengths > 0], np.arange(count) * max_length)
    sizes = np.diff(places, append=len(ids))
    return _laid_out(ids, learned, places, sizes, (count, max_length), pad_id, int((lengths > 0).sum()))


def _laid_out(
    ids: Array,
    learned: NDArray[np.bool_],
    places: NDArray[np.int64],
    sizes: NDArray[np.int64],
    shape: tuple[int, int],
    pad_id: int,
    documents: int,
) -> Packed:
    """Documents of ``sizes`` [N], end to end in ``ids``, put at ``places`` [N] of the flat result, which ascend."""
    total = shape[0] * shape[1]
    target = ragged(places, sizes)
    input_ids = np.full(total, pad_id, dtype=np.int32)
    labels = np.full(total, IGNORED, dtype=np.int32)
    input_ids[target] = ids
    labels[target] = np.where(learned, ids, np.int32(IGNORED))
    labels[places] = IGNORED
    ends = places + sizes
    # Padding begins where a document ends and no other begins.
    begins = np.union1d(places, ends[ends < total])
    position_ids = np.arange(total) - np.repeat(begins, np.diff(begins, append=total))
    return Packed(
        input_ids.reshape(shape),
        labels.reshape(shape),
        position_ids.astype(np.int32).reshape(shape),
        documents,
        len(ids),
    )


def assign(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The bin of each row, [N]; bins are numbered by the first row in them.

    That order keeps long rows from all coming first, as they would in the order of packing.
    """
    by_length = np.argsort(-lengths, kind="stable")
    sizes, firsts = np.unique(-lengths[by_length], return_index=True)
    bins = np.empty(len(lengths), dtype=np.int64)
    made = 0
    rooms = _Rooms()
    for size, first, last in zip((-sizes).tolist(), firsts, np.append(firsts, len(lengths))[1:], strict=True):
        waiting = by_length[first:last]
        while len(waiting):
            room, group = rooms.tightest(size)
            if not len(group):
                room, group = capacity, np.arange(made, made - (-len(waiting) // (capacity // size)))
                made += len(group)
            each = room // size
            full = min(len(waiting) // each, len(group))
            bins[waiting[: full * each]] = np.repeat(group[:full], each)
            waiting, rest = waiting[full * each :], group[full:]
            rooms.leave(room - each * size, group[:full])
            if len(rest) and len(waiting):
                # Fewer rows are left than the next bin would hold.
                bins[waiting] = rest[0]
                rooms.leave(room - len(waiting) * size, rest[:1])
                waiting, rest = waiting[:0], rest[1:]
            rooms.leave(room, rest)
    first_row = np.unique(bins, return_index=True)[1]
    number = np.empty(made, dtype=np.int64)
    number[np.argsort(first_row)] = np.arange(made)
    return number[bins]


class _Rooms:
    """Open bins by the room they have left; those of one room are alike, so whole groups of them are filled at once."""

    def __init__(self) -> None:
        self._groups: dict[int, list[NDArray[np.int64]]] = {}
        # Bit r is set while a bin with room r is open: the tightest fit is the lowest set bit from the row's length on.
        self._open = 0

    def tightest(self, size: int) -> tuple[int, NDArray[np.int64]]:
        """Room and bins of one group in which ``size`` leaves the least; no bins where none has that room."""
        fitting = self._open >> size
        if not fitting:
            return 0, np.zeros(0, dtype=np.int64)
        room = size + (fitting & -fitting).bit_length() - 1
        group = self._groups[room].pop()
        if not self._groups[room]:
            self._open &= ~(1 << room)
        return room, group

    def leave(self, room: int, group: NDArray[np.int64]) -> None:
        if room and len(group):
            self._groups.setdefault(room, []).append(group)
            self._open |= 1 << room


def unpack(data: bytes) -> dict[str, Array]:
    """The three arrays of a shard."""
    arrays: dict[str, Array] = load(data)
    return arrays
