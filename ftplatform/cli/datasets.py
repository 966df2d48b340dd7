"""``ft dataset``: push files, list datasets, show a row report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ftplatform.cli.common import add_partition, console, open_parts, say_next, show
from ftplatform.cli.local_run import materialize
from ftplatform.core.errors import InvalidKey, NotFound
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import SourceFile
from ftplatform.partitions import datasets
from ftplatform.resources.jobs import UPLOAD_TAG

app = typer.Typer(no_args_is_help=True)


@app.command()
def push(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    files: Annotated[list[Path], typer.Argument(help="the complete set of files, dataset.yaml among them")],
    run: Annotated[bool, typer.Option(help="also check and curate it now, in this process")] = False,
) -> None:
    """Upload a complete set of files as the dataset's next version."""
    key = DatasetKey.parse(dataset)
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise NotFound(f"push {key}: no such file: {', '.join(missing)}")
    if len({path.name for path in files}) != len(files):
        raise InvalidKey(f"push {key}: two files have the same name; the name is what a later push replaces by")
    parts = open_parts()
    sources = [SourceFile(name=p.name, digest=parts.store.put_file(p), size=p.stat().st_size) for p in files]
    sequence, new = parts.catalog.datasets.upload(key, sources, "push")
    add_partition(datasets, str(key))
    if not new:
        console.print(f"{key}: the same content as upload {sequence}; nothing to do")
        return
    console.print(f"{key}: upload {sequence}, {len(sources)} file(s)")
    if run:
        materialize("data_job", str(key), {UPLOAD_TAG: str(sequence)})
    else:
        say_next(
            f"dagster asset materialize -m ftplatform.definitions --select raw_dataset,curated_dataset --partition {key}"
        )


@app.command("list")
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
                upload["message"][:100],
            )
        )
    show("datasets", ("dataset", "version", "upload", "state", "message"), rows)


@app.command()
def report(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    upload: Annotated[int | None, typer.Option(help="upload number; the newest when left out")] = None,
    limit: Annotated[int, typer.Option(help="findings shown")] = 20,
    output: Annotated[Path | None, typer.Option(help="write every finding to this JSONL file")] = None,
) -> None:
    """What was found in an upload: every bad row with line, place, what was found and what is accepted."""
    parts = open_parts()
    row = parts.catalog.datasets.get_upload(DatasetKey.parse(dataset), upload)
    console.print(f"Upload {row['seq']} of {dataset}: {row['state']}. {row['message']}", markup=False)
    if row["report"] is None:
        return
    path = parts.store.path(row["report"])
    findings = [json.loads(line) for line in path.read_bytes().splitlines()]
    console.print(f"{len(findings)} findings" + (f", the first {limit}:" if len(findings) > limit else ":"))
    for f in findings[:limit]:
        place = f"{f['file']}:{f['line']}" + (f" {f['path']}" if f["path"] else "")
        console.print(f"  {f['severity']:7} {place}  {f['code']}", highlight=False, markup=False)
        console.print(
            f"          found {f['found']}; accepted {f['accepted']}; fix: {f['fix']}", highlight=False, markup=False
        )
    if output is not None:
        shutil.copyfile(path, output)
        console.print(f"all findings: {output}")
