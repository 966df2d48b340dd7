"""An upload (a set of files) -> one report and its canonical rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ftplatform.core.dataset_config import FILE_NAME, DatasetConfig
from ftplatform.core.digests import digest_file
from ftplatform.core.rows import Finding, Row
from ftplatform.data.importers import read_file
from ftplatform.data.problems import finding
from ftplatform.data.report import FileReport, RowReport


@dataclass(frozen=True, slots=True)
class Ingested:
    report: RowReport
    rows: list[Row]
    """Accepted rows of the data files, in the order of files and lines."""
    test_rows: list[Row]
    """Accepted rows of the customer's own test files."""


def ingest(files: list[tuple[str, Path]], config: DatasetConfig) -> Ingested:
    """Import every file of an upload; ``files`` holds (name, place) and may contain ``dataset.yaml``, which is not
    data.

    Files are read in the order of their names, so that the result does not depend on how they were listed. Rows are
    returned even when ``report.refused`` is true: the caller must ask it.
    """
    findings: list[Finding] = []
    reports: list[FileReport] = []
    rows: dict[str, list[Row]] = {"data": [], "test": []}
    formats: set[str] = set()
    seen: dict[str, tuple[str, str]] = {}
    data = sorted((name, path) for name, path in files if name != FILE_NAME)
    names = {name for name, _ in data}
    for name in config.split.test_files:
        if name not in names:
            findings.append(
                finding("missing_test_file", name, 0, "no such file; files: " + (", ".join(sorted(names)) or "none"))
            )
    for name, path in data:
        role = "test" if name in config.split.test_files else "data"
        digest = digest_file(path)
        if digest in seen and path.stat().st_size:
            other, other_role = seen[digest]
            # The same rows as training and test data cannot both be meant; twice as the same only costs time.
            same_role = other_role == role
            findings.append(
                finding(
                    "duplicate_file", name, 0, f"same content as {other}", severity="warning" if same_role else "error"
                )
            )
            if same_role:
                continue
        seen[digest] = (name, role)
        file = read_file(name, path, config)
        findings += file.findings
        reports.append(FileReport(name, role, file.format, file.read, len(file.rows), file.bad))
        rows[role] += file.rows
        if file.format:
            formats.add(file.format)
    if len(rows["data"]) < config.min_rows:
        findings.append(
            finding("too_few_examples", "", 0, f"{len(rows['data'])} usable rows, min_rows is {config.min_rows}")
        )
    report = RowReport("+".join(sorted(formats)), tuple(reports), tuple(findings), config.max_bad_rows, config.min_rows)
    return Ingested(report, rows["data"], rows["test"])
