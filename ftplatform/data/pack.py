"""Rows of tokens -> full sequences: best-fit decreasing, documents kept whole and apart.

Best-fit decreasing puts each row, longest first, where the least room is left over; it needs at most 11/9 of the fewest
possible sequences plus a constant (Johnson 1974). Rows are never cut, and no prediction crosses from one into the
next: the first label of each is ignored and positions start again, from which attention kernels and models tell
documents apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ftplatform.core.errors import DataRefused
from ftplatform.data.tokenize import IGNORED, TokenizedRow

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

    def to_bytes(self) -> bytes:
        """A safetensors file; the same arrays give the same bytes."""
        data: bytes = save({"input_ids": self.input_ids, "labels": self.labels, "position_ids": self.position_ids})
        return data


def pack(rows: Sequence[TokenizedRow], max_length: int, pad_id: int) -> Packed:
    """Pack rows into sequences of ``max_length``; the result depends on the rows and their order alone.

    Raises:
        DataRefused: a row is empty or longer than ``max_length``.
    """
    lengths = [len(row.input_ids) for row in rows]
    for row, length in zip(rows, lengths, strict=True):
        if not 0 < length <= max_length:
            raise DataRefused(f"{row.source} has {length} tokens and cannot be packed: accepted are 1 to {max_length}")
    bins = assign(lengths, max_length)
    shape = (len(bins), max_length)
    input_ids = np.full(shape, pad_id, dtype=np.int32)
    labels = np.full(shape, IGNORED, dtype=np.int32)
    position_ids = np.zeros(shape, dtype=np.int32)
    for number, members in enumerate(bins):
        at = 0
        for index in members:
            row, end = rows[index], at + lengths[index]
            input_ids[number, at:end] = row.input_ids
            labels[number, at:end] = row.labels
            labels[number, at] = IGNORED
            position_ids[number, at:end] = np.arange(lengths[index])
            at = end
        position_ids[number, at:] = np.arange(max_length - at)
    return Packed(input_ids, labels, position_ids, len(rows), sum(lengths))


def unpack(data: bytes) -> dict[str, Array]:
    """The three arrays of a shard."""
    arrays: dict[str, Array] = load(data)
    return arrays


def assign(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indexes of ``lengths`` per bin: within a bin, and among bins by their first member, in the order given.

    That order keeps long rows from all coming first, as they would in the order of packing.
    """
    open_bins: list[list[list[int]]] = [[] for _ in range(capacity + 1)]
    # Bit r is set while a bin with room r is open, so the tightest fit is the lowest set bit from the row's length on.
    rooms = 0
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            members = open_bins[room].pop()
            if not open_bins[room]:
                rooms &= ~(1 << room)
        else:
            room, members = capacity, []
            bins.append(members)
        members.append(index)
        if room > length:
            open_bins[room - length].append(members)
            rooms |= 1 << (room - length)
    for members in bins:
        members.sort()
    return sorted(bins)
