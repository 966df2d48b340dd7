"""From what a user names on the command line to the complete set of files of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftplatform.core.dataset_config import FILE_NAME, parse_dataset_config
from ftplatform.core.errors import InvalidConfig, InvalidKey, NotFound
from ftplatform.data.importing.settings_file import read_settings
from ftplatform.data.sources.download import MAX_BYTES, download, is_address, parse_address, read_list
from ftplatform.data.sources.hf_folder import Found, look, with_splits


@dataclass(slots=True)
class Collected:
    files: dict[str, Path] = field(default_factory=dict)
    """Name in the upload -> a file on this machine."""
    said: list[str] = field(default_factory=list)
    """What was decided for the user, a sentence each."""


def collect(
    sources: Sequence[str], scratch: Path, *, subset: str | None = None, max_bytes: int = MAX_BYTES
) -> Collected:
    """Resolve ``sources``: files, ``http(s)://`` addresses, ``@list`` files of addresses, one folder of a Hugging Face dataset.

    ``scratch`` is an empty folder that holds what is downloaded or written here; it must live until the files are stored.

    Raises:
        NotFound: a path or address that is not there.
        InvalidKey: two files of one name.
        InvalidConfig, DataRefused, CorruptObject: as ``download`` and ``look`` say.
    """
    made = Collected()
    folders: list[Found] = []
    for source in sources:
        if is_address(source):
            addresses = [parse_address(source, "address")]
        elif source.startswith("@"):
            addresses = read_list(Path(source[1:]))
        else:
            addresses = []
            path = Path(source)
            if path.is_dir():
                found = look(path, subset)
                folders.append(found)
                for name, file in found.files.items():
                    _add(made, name, file)
                if found.settings is not None:
                    _add(made, FILE_NAME, found.settings)
            elif path.is_file():
                _add(made, path.name, path)
            else:
                raise NotFound(f"no such file or folder: {source}")
        for address in addresses:
            if address.name in made.files:
                raise _twice(address.name)
            _add(made, address.name, download(address, scratch, max_bytes=max_bytes))
    for found in folders:
        _add_splits(made, found, scratch)
    return made


def _add(made: Collected, name: str, path: Path) -> None:
    if name in made.files:
        raise _twice(name)
    made.files[name] = path


def _twice(name: str) -> InvalidKey:
    return InvalidKey(
        f"two files are named {name!r}; the name is what a later push replaces by, so give one another name"
    )


def _add_splits(made: Collected, found: Found, scratch: Path) -> None:
    """Say in ``dataset.yaml`` which files the folder's own split names hold out, and tell the user."""
    before = _read(made.files.get(FILE_NAME))
    after = with_splits(before, found)
    if after != before:
        parse_dataset_config(after)
        target = scratch / FILE_NAME
        target.write_text(yaml.safe_dump(after, sort_keys=False, allow_unicode=True), encoding="utf-8")
        made.files[FILE_NAME] = target
        added = {name: value for name, value in after["split"].items() if name not in (before.get("split") or {})}
        made.said.append(f"{FILE_NAME}: added split: {added}, by the names of the splits")


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    value = read_settings(path.read_bytes(), str(path))
    if value is not None and not isinstance(value, dict):
        raise InvalidConfig(f"{path}: accepted are fields and their values, found {type(value).__name__}")
    return value or {}
