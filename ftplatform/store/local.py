"""A folder as storage: temporary name, fsync, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ftplatform.core.errors import NotFound


class LocalBlobs:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes) -> None:
        self._write(name, lambda stream: stream.write(data))

    def put_path(self, name: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(name, lambda stream: shutil.copyfileobj(source, stream, 1 << 20))

    def get(self, name: str) -> bytes:
        return self.get_path(name).read_bytes()

    def part(self, name: str, start: int, size: int) -> bytes:
        with self.get_path(name).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def get_path(self, name: str) -> Path:
        path = self._root / name
        if not path.is_file():
            raise NotFound(f"{name} is not in the store at {self._root}")
        return path

    def exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        names = (path.relative_to(self._root).as_posix() for path in folder.rglob("*") if path.is_file())
        return iter(sorted(name for name in names if name.startswith(prefix) and not _is_temporary(name)))

    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def _write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # A rename inside one folder is atomic; without the fsync a power cut can leave the new name with no content.
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                fill(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".tmp-")
