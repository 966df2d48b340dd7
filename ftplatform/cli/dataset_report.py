"""``ft dataset list`` and ``report``: what was uploaded, and what was found in it."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ftplatform.cli.common import console, open_parts, show
from ftplatform.core.ids import DatasetKey


def list_datasets() -> None:
    """Datasets and the state of their newest upload."""
    parts = open_parts()
    rows = []
    for dataset in parts.catalog.datasets.all():
        newest = parts.catalog.datasets.list_uploads(DatasetKey.parse(dataset["dataset"]))[-1:]
        upload = newest[0] if newest else {"seq": "", "state": "no upload", "message": ""}
        rows.append(
            (
                dataset["dataset"],
                (dataset["curated"] or "")[:12],
                upload["seq"],
                upload["state"],
                textwrap.shorten(upload["message"], 160, placeholder=" …"),
            )
        )
    show("datasets", ("dataset", "version", "upload", "state", "message"), rows)


def report(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    upload: Annotated[int | None, typer.Option(help="upload number; the newest when left out")] = None,
    limit: Annotated[int, typer.Option(help="findings shown")] = 20,
    output: Annotated[Path | None, typer.Option(help="write every finding to this JSONL file")] = None,
) -> None:
    """What was found in an upload: how often, and the first findings with line, place, what is accepted and the fix."""
    parts = open_parts()
    row = parts.catalog.datasets.get_upload(DatasetKey.parse(dataset), upload)
    console.print(f"Upload {row['seq']} of {dataset}: {row['state']}. {row['message']}", markup=False)
    if row["report"] is None:
        return
    path = parts.store.path(row["report"])
    counts: Counter[tuple[str, str]] = Counter()
    shown: dict[str, list[dict[str, Any]]] = {"error": [], "warning": []}
    with path.open("rb") as lines:
        for line in lines:
            found = orjson.loads(line)
            counts[found["code"], found["severity"]] += 1
            if len(shown[found["severity"]]) < limit:
                shown[found["severity"]].append(found)
    console.print(f"{counts.total():,} findings")
    for (code, severity), number in sorted(counts.items(), key=lambda item: (item[0][1] != "error", -item[1], item[0])):
        console.print(f"  {number:8,}  {severity:7}  {code}", highlight=False, markup=False)
    for f in [*shown["error"], *shown["warning"]][:limit]:
        place = f"{f['file']}:{f['line']}" + (f" {f['path']}" if f["path"] else "")
        console.print(f"  {f['severity']:7} {place}  {f['code']}", highlight=False, markup=False, soft_wrap=True)
        words = f"          found {f['found']}; accepted {f['accepted']}; fix: {f['fix']}"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        shutil.copyfile(path, output)
        console.print(f"all findings: {output}")
