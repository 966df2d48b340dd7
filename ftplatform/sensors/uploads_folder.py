"""What an uploads folder holds, and which of its datasets came to rest: plain functions over the file system.

``<uploads>/<tenant>/<dataset>/<file>``. A file is complete when its name has no leading dot and does not end in ``.part`` or
``.tmp``, and its size and time were the same on two ticks. A dataset is taken when all its complete-named files are at rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ftplatform.core.errors import InvalidKey
from ftplatform.core.ids import DatasetKey

FileSet: TypeAlias = dict[str, list[int]]
"""name -> [size in bytes, modification time in nanoseconds]; lists, because the cursor is JSON."""


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
            names = [p for p in sorted(folder.iterdir()) if complete_name(p.name) and (p.is_file() or p.is_symlink())]
            # A link could point into another tenant's folder, and the platform may read all of them.
            refused |= {f"{key}/{p.name}": "symbolic links are not followed" for p in names if p.is_symlink()}
            files = {p.name: _state(p) for p in names if not p.is_symlink()}
            found[str(key)] = {name: state for name, state in files.items() if state is not None}
    return found, refused


def at_rest(previous: dict[str, FileSet], current: dict[str, FileSet]) -> dict[str, FileSet]:
    """The datasets that hold files and look exactly as on the tick before."""
    return {key: files for key, files in current.items() if files and previous.get(key) == files}


def _folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (
            p for p in sorted(root.iterdir()) if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")
        )


def _state(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns]
