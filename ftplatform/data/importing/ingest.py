"""An upload (a set of files) -> one report and its canonical rows, in files: memory holds a few blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ftplatform.core.dataset_config import FILE_NAME, DatasetConfig
from ftplatform.core.digests import digest_file
from ftplatform.data.importing.containers import Unreadable
from ftplatform.data.importing.importers import import_block
from ftplatform.data.importing.lines import BLOCK_BYTES
from ftplatform.data.importing.opening import open_file
from ftplatform.data.report.advice import Advice
from ftplatform.data.report.problems import finding
from ftplatform.data.report.report import FileReport, ReportWriter, RowReport
from ftplatform.data.workers import Workers, map_ordered

_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Ingested:
    report: RowReport
    canonical: Path
    """Accepted rows of the data files, in the order of file names and lines, as JSONL."""
    validation: Path | None
    """Those of the customer's own validation files; None when dataset.yaml names none."""
    test: Path | None
    findings: Path
    """Every finding, as JSONL."""


def ingest(
    files: list[tuple[str, Path]],
    config: DatasetConfig,
    out: Path,
    *,
    workers: Workers = 1,
    block_bytes: int = BLOCK_BYTES,
) -> Ingested:
    """Import every file of an upload; ``files`` holds (name, place) and may contain ``dataset.yaml``, which is not
    data.

    Files are read in the order of their names, so that the result does not depend on how they were listed; nor does it
    on ``workers`` or ``block_bytes``. Rows are written even when ``report.refused`` is true: the caller must ask it.

    Raises:
        OSError: a file cannot be read, or ``out`` cannot be written; what is wrong with the content is a finding.
        PayloadFailed: a worker process was killed; a retry can help.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = {
        "data": out / "canonical.jsonl",
        "validation": out / "validation.jsonl" if config.split.validation_files else None,
        "test": out / "test.jsonl" if config.split.test_files else None,
    }
    with ExitStack() as stack:
        writer = stack.enter_context(ReportWriter(out / "findings.jsonl", config.max_bad_rows, config.min_rows))
        streams = {role: stack.enter_context(path.open("wb")) for role, path in paths.items() if path}
        for name, path, role in _wanted(files, config, writer):
            _import_file(name, path, role, config, writer, streams[role], workers, block_bytes)
        report = writer.close()
    return Ingested(report, out / "canonical.jsonl", paths["validation"], paths["test"], out / "findings.jsonl")


def _wanted(
    files: list[tuple[str, Path]], config: DatasetConfig, writer: ReportWriter
) -> Iterator[tuple[str, Path, str]]:
    """(name, place, role) of the files to read; the others are reported."""
    data = sorted((name, path) for name, path in files if name != FILE_NAME)
    names = {name for name, _ in data}
    split = config.split
    for name in (*split.validation_files, *split.test_files):
        if name not in names:
            found = "no such file; files: " + (", ".join(sorted(names)) or "none")
            writer.add([finding("missing_test_file", name, 0, found)])
    sizes = Counter(path.stat().st_size for _, path in data)
    seen: dict[str, tuple[str, str]] = {}
    for name, path in data:
        if problem := unsafe_name(name):
            writer.add([finding("unsafe_file_name", name, 0, problem)])
            continue
        roles = [r for r, own in (("validation", split.validation_files), ("test", split.test_files)) if name in own]
        if len(roles) > 1:
            writer.add([finding("duplicate_file", name, 0, "named under validation_files and test_files")])
        role = roles[0] if roles else "data"
        # Only files of one size can be the same; hashing the others would read every upload twice.
        size = path.stat().st_size
        if size and sizes[size] > 1:
            other, other_role = seen.setdefault(digest_file(path), (name, role))
            if other != name:
                # The same rows on two sides cannot be meant; twice on one only costs time.
                same = other_role == role
                found = f"same content as {other}"
                writer.add([finding("duplicate_file", name, 0, found, severity="warning" if same else "error")])
                if same:
                    continue
        yield name, path, role


def _import_file(
    name: str,
    path: Path,
    role: str,
    config: DatasetConfig,
    writer: ReportWriter,
    stream: BinaryIO,
    workers: Workers,
    block_bytes: int,
) -> None:
    try:
        reading, blocks = open_file(name, path, config, block_bytes)
    except Unreadable as error:
        writer.add([finding(error.code, name, 0, error.found)])
        writer.file(FileReport(name, role, "", 0, 0, 0))
        return
    read = bad = 0
    advice = Advice()
    said: set[str] = set()
    for part in map_ordered(import_block, ((reading, block) for block in blocks), workers):
        stream.write(part.canonical)
        read, bad = read + part.read, bad + part.bad
        advice.merge(part.advice)
        for found in part.findings:
            if found.code == "extra_column":  # each worker says it once, the file should too
                if found.path in said:
                    continue
                said.add(found.path)
            writer.add([found])
    if not read:
        writer.add([finding("empty_file", name, 0, "no example, only white space or a header")])
    writer.add(advice.findings(name))
    writer.file(FileReport(name, role, reading.format, read, read - bad, bad, reading.detected_by))


def unsafe_name(name: str) -> str:
    """Why a file of an upload must not be called that; empty when it may. Folders are allowed, with ``/``."""
    if not name or len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        return f"{len(name)} characters; at most {_LONGEST_NAME} bytes"
    if not name.isprintable():
        return "a control character, a line break or half of a character"
    if "\\" in name or re.match(r"[A-Za-z]:|/|~", name):
        return "a backslash, a drive, or a beginning that points elsewhere"
    return "a part that is empty, '.' or '..'" if {"", ".", ".."} & set(name.split("/")) else ""
