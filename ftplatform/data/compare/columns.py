"""The keys and words of all rows as columns on disk: what the steps that compare rows with each other work on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.rows import Row
from ftplatform.data.compare.keys import KEY_BYTES, row_keys
from ftplatform.data.compare.words import hash_words
from ftplatform.data.text import normalise

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``map``, or one that spreads the calls over processes and keeps the order."""

_BLOCK_ROWS = 4_000
_BLOCK_WORDS = 1_000_000
DATA, VALIDATION_FILE, TEST_FILE = 0, 1, 2
"""Where a row came from: the dataset's own files, or the customer's held-out files."""


@dataclass(frozen=True, slots=True)
class BlockKeys:
    """The columns of one block of n rows; a key is two 64-bit words."""

    exact: NDArray[np.uint64]
    """(n, 2); see ``RowKeys`` for this and the next two."""
    question: NDArray[np.uint64]
    subject: NDArray[np.uint64]
    place: NDArray[np.float64]
    group_place: NDArray[np.float64]
    asked: NDArray[np.int32]
    """Number of the evaluation prompt that a user turn of the row asks, -1 for none."""
    learned: NDArray[np.uint64]
    """(sum of ``learned_count``, 2): questions of earlier trained turns."""
    learned_count: NDArray[np.int32]
    words: NDArray[np.uint32]
    """Hashed words of the question, then of the answer, row after row."""
    question_words: NDArray[np.int32]
    answer_words: NDArray[np.int32]


def block_keys(
    rows: Sequence[Row], *, group_by: str | None = None, prompts: Mapping[str, int] | None = None
) -> BlockKeys:
    """The columns of a block. ``prompts`` gives a number to every evaluation prompt, in the form of ``normalise``."""
    keys = [row_keys(row, group_by) for row in rows]
    words, counts = hash_words([text for key in keys for text in (key.question_text, key.answer_text)])
    return BlockKeys(
        exact=key_array([key.exact for key in keys]),
        question=key_array([key.question for key in keys]),
        subject=key_array([key.subject for key in keys]),
        place=np.array([key.place for key in keys], np.float64),
        group_place=np.array([key.group_place for key in keys], np.float64),
        asked=np.array([_asked(row, prompts) if prompts else -1 for row in rows], np.int32),
        learned=key_array([learned for key in keys for learned in key.learned]),
        learned_count=np.array([len(key.learned) for key in keys], np.int32),
        words=words,
        question_words=counts[0::2].astype(np.int32),
        answer_words=counts[1::2].astype(np.int32),
    )


def key_array(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """Keys of 16 bytes as an (n, 2) array."""
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, KEY_BYTES // 8)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of all rows, memory-mapped; the fields of ``BlockKeys`` and what is needed to find a row's part."""

    folder: Path
    exact: NDArray[np.uint64]
    question: NDArray[np.uint64]
    subject: NDArray[np.uint64]
    place: NDArray[np.float64]
    group_place: NDArray[np.float64]
    asked: NDArray[np.int32]
    learned: NDArray[np.uint64]
    learned_count: NDArray[np.int32]
    words: NDArray[np.uint32]
    question_words: NDArray[np.int32]
    answer_words: NDArray[np.int32]
    origin: NDArray[np.int8]
    """``DATA``, ``VALIDATION_FILE`` or ``TEST_FILE``."""
    words_end: NDArray[np.int64]
    """(n + 1): the words of row i are ``words[words_end[i]:words_end[i + 1]]``."""

    def __len__(self) -> int:
        return len(self.place)

    @property
    def teacher(self) -> NDArray[np.int32]:
        """The row of every key of ``learned``."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.learned_count)

    @classmethod
    def open(cls, folder: Path) -> Columns:
        """Open what a ``ColumnWriter`` closed."""
        return cls(folder, **{name: _open(folder, name) for name in (f.name for f in fields(cls)) if name != "folder"})


def row_blocks(columns: Columns, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """``rows`` in order, cut into blocks of at most 4,000 rows and about a million words."""
    begin = 0
    while begin < len(rows):
        part = rows[begin : begin + _BLOCK_ROWS]
        words = np.cumsum(columns.question_words[part] + columns.answer_words[part], dtype=np.int64)
        end = max(1, int(np.searchsorted(words, _BLOCK_WORDS, side="right")))
        yield part[:end]
        begin += end


class ColumnWriter:
    """Appends blocks to one file per column under ``folder``; holds nothing in memory but the file handles."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {name: (folder / name).open("wb") for name in _DTYPES}
        self._words = np.zeros(1, np.int64)
        self._write("words_end", self._words)

    def add(self, block: BlockKeys, origin: int = DATA) -> None:
        for field in fields(BlockKeys):
            self._write(field.name, getattr(block, field.name))
        self._write("origin", np.full(len(block.place), origin))
        ends = self._words[-1] + np.cumsum(block.question_words + block.answer_words, dtype=np.int64)
        self._write("words_end", ends)
        self._words = ends[-1:] if len(ends) else self._words

    def close(self) -> Columns:
        for file in self._files.values():
            file.close()
        return Columns.open(self._folder)

    def _write(self, name: str, values: NDArray[Any]) -> None:
        self._files[name].write(np.ascontiguousarray(values, _DTYPES[name]).tobytes())


_DTYPES: dict[str, str] = {
    **dict.fromkeys(("exact", "question", "subject", "learned"), "<u8"),
    **dict.fromkeys(("place", "group_place"), "<f8"),
    **dict.fromkeys(("asked", "learned_count", "question_words", "answer_words"), "<i4"),
    "words": "<u4",
    "origin": "|i1",
    "words_end": "<i8",
}
_KEYS = ("exact", "question", "subject", "learned")


def _open(folder: Path, name: str) -> NDArray[Any]:
    path, dtype = folder / name, np.dtype(_DTYPES[name])
    # An empty file cannot be mapped.
    flat = np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
    return flat.reshape(-1, KEY_BYTES // 8) if name in _KEYS else flat


def _asked(row: Row, prompts: Mapping[str, int]) -> int:
    for message in row.messages:
        if message.role == "user" and (number := prompts.get(normalise(message.content))) is not None:
            return number
    return -1
