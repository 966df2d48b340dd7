"""A Hugging Face dataset by its folder: which files are its data, and which split each belongs to.

Two layouts: what ``datasets.save_to_disk`` writes (``state.json`` beside Arrow files, a folder per split below a
``dataset_dict.json``), and a repository of the hub as it is cloned or downloaded (``README.md`` whose front matter may name the
files of each split, else split names in folder and file names, by the rules of the ``datasets`` library).
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftplatform.core.dataset_config import FILE_NAME
from ftplatform.core.errors import DataRefused, InvalidConfig

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".text", ".md")
COMPRESSED = (".gz", ".zst")
NOT_DATA = {"readme.md", "license.txt", "license.md", "dataset_info.json", "dataset_infos.json", "state.json"}
NOT_DATA |= {"dataset_dict.json", "requirements.txt", "contributing.md", "changelog.md"}
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The keywords of ``datasets.data_files``."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Found:
    files: dict[str, Path]
    """Name in the upload -> file: the path in the folder with ``-`` for ``/`` and without a leading ``data/``."""
    splits: dict[str, str]
    """Name in the upload -> ``train``, ``validation`` or ``test``."""
    settings: Path | None
    """The folder's own ``dataset.yaml``."""


def look(folder: Path, subset: str | None = None) -> Found:
    """What is to be uploaded of ``folder``; ``subset`` chooses one of a dataset's configurations.

    Raises:
        InvalidConfig: several subsets and none chosen, or one that does not exist.
        DataRefused: no data, two files of one name, pointers of git-lfs in place of files, links out of the folder, or a saved selection without its rows.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        chosen = [(path, name) for name in splits for path in _saved(folder / name)]
    elif (folder / "state.json").is_file():
        chosen = [(path, None) for path in _saved(folder)]
    else:
        chosen = _hub(folder, subset)
    if not chosen:
        raise DataRefused(
            f"{folder}: no data; accepted are files that end in {', '.join(DATA_SUFFIXES)}, also compressed"
        )
    settings = folder / FILE_NAME
    if astray := [path for path in (*(path for path, _ in chosen), settings) if _leads_out(folder, path)]:
        raise DataRefused(
            f"{folder}: {', '.join(map(str, astray[:3]))} leads to a file outside of the folder, which could be any of "
            "this machine. Copy the file into the folder, or delete the link"
        )
    files: dict[str, Path] = {}
    sides: dict[str, str] = {}
    for path, split in chosen:
        name = path.relative_to(folder).as_posix().removeprefix("data/").replace("/", "-")
        if name in files:
            raise DataRefused(f"{folder}: {files[name]} and {path} would both be uploaded as {name}; rename one")
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise DataRefused(f"{path} is a pointer of git-lfs and not the file: run `git lfs pull` in {folder}")
        files[name] = path
        sides[name] = side(split) if split is not None else "train"
    return Found(files, sides, settings if settings.is_file() else None)


def side(split: str) -> str:
    """The side that a split's name stands for: ``validation_matched`` is validation, a name without a keyword is training."""
    return _word(split) or "train"


def with_splits(value: dict[str, Any], found: Found) -> dict[str, Any]:
    """The parsed ``dataset.yaml`` plus ``split.validation_files`` and ``split.test_files``, each unless it says so itself."""
    if not isinstance(value.get("split") or {}, dict):
        # Left for the check of the whole file, which says what is wrong with it.
        return value
    split = dict(value.get("split") or {})
    for name in ("validation", "test"):
        files = sorted(file for file, where in found.splits.items() if where == name)
        if files:
            split.setdefault(f"{name}_files", files)
    return {**value, "split": split} if split else value


def _saved(folder: Path) -> Iterator[Path]:
    """The Arrow files of one saved split, in order."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_data_files"):
        raise DataRefused(
            f"{folder} holds a selection of rows apart from the rows: call flatten_indices() and save it again"
        )
    for file in state["_data_files"]:
        yield folder / file["filename"]


def _hub(folder: Path, subset: str | None) -> list[tuple[Path, str | None]]:
    present = [path for path in sorted(folder.rglob("*")) if _is_data(folder, path)]
    configs = _configs(folder)
    if configs:
        names = [str(config.get("config_name", "default")) for config in configs]
        wanted = subset or ("default" if "default" in names else names[0] if len(names) == 1 else None)
        if wanted not in names:
            raise InvalidConfig(f"{folder} has the subsets {', '.join(names)}: choose one with --subset NAME")
        data_files = configs[names.index(wanted)].get("data_files")
        if data_files is not None:
            base = configs[names.index(wanted)].get("data_dir", "")
            return _declared(folder, present, data_files, base)
        if len(names) > 1:
            present = [path for path in present if wanted in path.relative_to(folder).parts]
    elif subset is not None:
        present = [path for path in present if subset in path.relative_to(folder).parts]
    return [(path, _split_of(folder, path)) for path in present]


def _leads_out(folder: Path, path: Path) -> bool:
    """Whether a link or a path with ``..`` ends elsewhere; the hub's cache keeps the files of ``snapshots/<revision>`` in ``blobs``."""
    root = folder.resolve()
    target = path.resolve()
    cached = root.parent.name == "snapshots" and target.is_relative_to(root.parent.parent / "blobs")
    return not (target.is_relative_to(root) or cached)


def _is_data(folder: Path, path: Path) -> bool:
    parts = path.relative_to(folder).parts
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    hidden = any(part.startswith(".") for part in parts)
    return path.is_file() and not hidden and name.endswith(DATA_SUFFIXES) and name not in NOT_DATA


def _configs(folder: Path) -> list[dict[str, Any]]:
    """``configs`` of the front matter of README.md."""
    readme = folder / "README.md"
    match = (
        re.match(r"---\r?\n(.*?)\r?\n---", readme.read_text(encoding="utf-8"), re.DOTALL) if readme.is_file() else None
    )
    try:
        front = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise InvalidConfig(f"{readme}: its front matter is no YAML: {error}") from error
    found = front.get("configs") if isinstance(front, dict) else None
    return [config for config in found if isinstance(config, dict)] if isinstance(found, list) else []


def _declared(folder: Path, present: list[Path], data_files: Any, base: str) -> list[tuple[Path, str | None]]:
    """``data_files``: a pattern, a list of patterns, or a list of {split, path: pattern or patterns}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    chosen: dict[Path, str | None] = {}
    for entry in entries:
        split, patterns = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else (None, entry)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            full = f"{base}/{pattern}" if base else str(pattern)
            for path in present:
                if fnmatch.fnmatch(path.relative_to(folder).as_posix(), full.removeprefix("./")):
                    chosen.setdefault(path, str(split) if split else _split_of(folder, path))
    return list(chosen.items())


def _split_of(folder: Path, path: Path) -> str | None:
    """The nearest part of the path that names a split: the file's own name first, then its folders from the inside."""
    parts = path.relative_to(folder).parts
    return next((word for part in reversed(parts) if (word := _word(part))), None)


def _word(text: str) -> str | None:
    """A split's keyword, alone or set off by something that is neither letter nor digit: ``train-00000``, not ``trainer``."""
    pieces = re.split(r"[^a-z]+", text.lower())
    return next((name for name, words in SPLIT_WORDS.items() if any(word in pieces for word in words)), None)
