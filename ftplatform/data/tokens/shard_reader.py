"""Shards of a corpus larger than the disk: one file in use, the next on its way, older ones given up."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.tokens.shards import open_shard
from ftplatform.store import ObjectStore

Example = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Position:
    """What is read next: a checkpoint holds these three numbers, and a reader goes on there without reading what came before."""

    epoch: int = 0
    file: int = 0
    """Number of the file in the epoch's order."""
    row: int = 0
    """Number of the example in the file's order."""


class ShardReader:
    """Reads examples from shard files in the store, without end, in an order that ``seed`` decides.

    Every epoch has the files in an order of its own and the examples of every file in an order of their own; without a seed both
    stand as they were written. ``cache`` holds at most ``limit`` bytes and is a reader's own; files are checked against their
    digests when they are fetched.

    Raises:
        InvalidConfig: there are no files.
    """

    def __init__(
        self, store: ObjectStore, files: Sequence[str], cache: Path, limit: int, seed: int | None = None
    ) -> None:
        if not files:
            raise InvalidConfig("a shard reader needs the objects of at least one shard file, found none")
        self._store, self._files, self._cache, self._limit, self._seed = store, tuple(files), cache, limit, seed
        cache.mkdir(parents=True, exist_ok=True)

    def examples(self, start: Position = Position()) -> Iterator[tuple[Position, Example]]:
        """Each example with the position after it, which is where to start to get the next one.

        An example of a packed layout has its tensors' rows [L]; one of a flat layout ``input_ids``, ``learned`` and
        ``prompt_lengths``, and what its layout adds. The arrays are mapped: copy what is kept.

        Raises:
            InvalidConfig: two files do not fit into the cache's limit.
            NotFound, CorruptObject: a file is not in the store as named.
        """
        epoch, number, row = start.epoch, start.file, start.row
        with ThreadPoolExecutor(1) as pool:
            waiting = self._fetch(pool, epoch, number, using=None)
            while True:
                path = waiting.result()
                following = (epoch, number + 1) if number + 1 < len(self._files) else (epoch + 1, 0)
                waiting = self._fetch(pool, *following, using=path)
                arrays = open_shard(path)
                count = _count(arrays)
                order = self._order(count, epoch, self._file(epoch, number) + 1)
                for at in range(row, count):
                    after = Position(epoch, number, at + 1) if at + 1 < count else Position(*following)
                    yield after, _example(arrays, int(order[at]))
                (epoch, number), row = following, 0

    def _file(self, epoch: int, number: int) -> int:
        return int(self._order(len(self._files), epoch, 0)[number])

    def _order(self, count: int, epoch: int, stream: int) -> NDArray[np.int64]:
        if self._seed is None:
            return np.arange(count)
        return np.random.default_rng([self._seed, epoch, stream]).permutation(count)

    def _fetch(self, pool: ThreadPoolExecutor, epoch: int, number: int, using: Path | None) -> Future[Path]:
        return pool.submit(self._fetched, self._files[self._file(epoch, number)], using)

    def _fetched(self, digest: str, using: Path | None) -> Path:
        target = self._cache / digest
        if target.is_file():
            os.utime(target)
            return target
        data = self._store.get_bytes(digest)
        self._make_room(len(data), using)
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=self._cache)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    def _make_room(self, size: int, using: Path | None) -> None:
        """Delete the files used longest ago, never the one in use."""
        held = sorted((path.stat().st_mtime_ns, path) for path in self._cache.iterdir())
        total = sum(path.stat().st_size for _, path in held)
        for _, path in held:
            if total + size <= self._limit:
                return
            if path != using:
                total -= path.stat().st_size
                path.unlink()
        if total + size > self._limit:
            raise InvalidConfig(
                f"a shard file of {size} bytes does not fit into the cache {self._cache} of {self._limit} bytes beside the one in use "
                f"({total} bytes): accepted is a limit of at least twice the largest file. A retry does not help"
            )


def _count(arrays: Example) -> int:
    if "position_ids" in arrays:
        return len(arrays["input_ids"])
    return len(arrays["offsets"]) - 1


def _example(arrays: Example, number: int) -> Example:
    if "position_ids" in arrays:
        return {name: array[number] for name, array in arrays.items()}
    found: Example = {}
    for name, array in arrays.items():
        if name in ("input_ids", "learned"):
            found[name] = array[arrays["offsets"][number] : arrays["offsets"][number + 1]]
        elif name == "extra":
            found[name] = array[arrays["extra_offsets"][number] : arrays["extra_offsets"][number + 1]]
        elif not name.endswith("offsets"):
            found[name] = array[number]
    return found
