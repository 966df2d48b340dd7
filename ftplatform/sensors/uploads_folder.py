"""What an uploads folder holds, and which of its datasets came to rest: plain functions over the file system.

``<uploads>/<tenant>/<dataset>/<file>``. A file is complete when its name has no leading dot and does not end in ``.part`` or
``.tmp``, and its size and time were the same on two looks. A dataset is taken when all its complete-named files are at rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from ftplatform.core.errors import InvalidKey
from ftplatform.core.ids import DatasetKey

FileSet: TypeAlias = dict[str, list[int | str]]
"""name -> [size in bytes, what else changes when the file does]; lists, because run configuration is JSON."""

T = TypeVar("T")


class FolderSource:
    look_every = 0.0
    """Seconds between two looks; the sensor's own interval is enough for a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def scan(self) -> tuple[dict[str, FileSet], dict[str, str]]:
        return scan(self._root)

    def files(self, key: DatasetKey) -> FileSet:
        """The dataset's files as they are now."""
        folder = self._root / key.tenant / key.name
        # Links are left out as in the scan: a folder may have been replaced by one since.
        return _files(folder) if folder.is_dir() and folder.resolve() == self._root.resolve() / str(key) else {}

    def fetch(self, key: DatasetKey, name: str, scratch: Path) -> Path:
        """A local file with the content; here the file itself."""
        return self._root / str(key) / name


def complete_name(name: str) -> bool:
    return not name.startswith(".") and not name.endswith((".part", ".tmp"))


def scan(root: Path) -> tuple[dict[str, FileSet], dict[str, str]]:
    """(datasets, refused folders with the reason). A folder whose name is no key is never ingested under another name."""
    found: dict[str, FileSet] = {}
    refused: dict[str, str] = {}
    for tenant in _folders(root):
        for folder in _folders(tenant):
            try:
                key = DatasetKey(tenant.name, folder.name)
            except InvalidKey as error:
                refused[f"{tenant.name}/{folder.name}"] = str(error)
                continue
            # A link could point into another tenant's folder, and the platform may read all of them.
            links = [p for p in folder.iterdir() if complete_name(p.name) and p.is_symlink()]
            refused |= {f"{key}/{p.name}": "symbolic links are not followed" for p in sorted(links)}
            found[str(key)] = _files(folder)
    return found, refused


def at_rest(previous: Mapping[str, T], current: Mapping[str, T]) -> dict[str, T]:
    """The datasets that hold files and look exactly as on the look before."""
    return {key: files for key, files in current.items() if files and previous.get(key) == files}


def _folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (
            p for p in sorted(root.iterdir()) if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")
        )


def _files(folder: Path) -> FileSet:
    paths = [p for p in sorted(folder.iterdir()) if complete_name(p.name) and p.is_file() and not p.is_symlink()]
    states = {path.name: _state(path) for path in paths}
    return {name: state for name, state in states.items() if state is not None}


def _state(path: Path) -> list[int | str] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns]
