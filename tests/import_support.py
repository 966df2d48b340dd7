"""An upload through the importers, its rows and findings read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ftplatform.core.dataset_config import parse_dataset_config
from ftplatform.core.rows import Finding, Row, rows_from_jsonl
from ftplatform.data.importing.ingest import ingest
from ftplatform.data.importing.lines import BLOCK_BYTES
from ftplatform.data.report.report import RowReport


@dataclass
class Loaded:
    report: RowReport
    rows: list[Row]
    validation_rows: list[Row]
    test_rows: list[Row]
    findings: list[Finding]
    """All, in the order of the file."""
    bytes: dict[str, bytes]
    """Content of every file written, by name."""


def load(
    tmp_path: Path, files: dict[str, bytes], *, workers: int = 1, block: int = BLOCK_BYTES, **config: Any
) -> Loaded:
    inbox = tmp_path / "in"
    inbox.mkdir(exist_ok=True)
    places = []
    for i, (name, data) in enumerate(files.items()):
        (inbox / str(i)).write_bytes(data)
        places.append((name, inbox / str(i)))
    config.setdefault("min_rows", 1)
    done = ingest(places, parse_dataset_config(config), tmp_path / "out", workers=workers, block_bytes=block)

    def rows(path: Path | None) -> list[Row]:
        return rows_from_jsonl(path.read_bytes()) if path else []

    return Loaded(
        done.report,
        rows(done.canonical),
        rows(done.validation),
        rows(done.test),
        [Finding(**orjson.loads(line)) for line in done.findings.read_bytes().splitlines()],
        {path.name: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())},
    )
