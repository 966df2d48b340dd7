"""``ft dataset push``: a complete set of files as the dataset's next version."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ftplatform.cli.common import add_partition, console, open_parts, say_next
from ftplatform.cli.local_run import materialize
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import SourceFile
from ftplatform.data.sources.collect import collect
from ftplatform.data.sources.download import MAX_BYTES
from ftplatform.partitions import datasets
from ftplatform.resources.jobs import UPLOAD_TAG


def push(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="the complete set, dataset.yaml among it: files, https:// addresses, @FILE with an address per line "
            "(optionally followed by sha256=HEX), or the folder of a Hugging Face dataset",
        ),
    ],
    run: Annotated[bool, typer.Option(help="also check and curate it now, in this process")] = False,
    subset: Annotated[str | None, typer.Option(help="subset (configuration) of a Hugging Face dataset")] = None,
    max_gb: Annotated[float, typer.Option(help="largest download, in 10^9 bytes")] = MAX_BYTES / 1e9,
) -> None:
    """Upload a complete set of files as the dataset's next version."""
    key = DatasetKey.parse(dataset)
    parts = open_parts()
    # In the home and not in /tmp, which is often small: downloads lie here until they are stored.
    with tempfile.TemporaryDirectory(prefix="push-", dir=parts.settings.home) as scratch:
        collected = collect(sources, Path(scratch), subset=subset, max_bytes=round(max_gb * 1e9))
        files = [
            SourceFile(name=name, digest=parts.store.put_file(path), size=path.stat().st_size)
            for name, path in sorted(collected.files.items())
        ]
    for sentence in collected.said:
        console.print(sentence, markup=False, highlight=False)
    sequence, new = parts.catalog.datasets.upload(key, files, "push")
    add_partition(datasets, str(key))
    if not new:
        console.print(f"{key}: the same content as upload {sequence}; nothing to do")
        return
    console.print(f"{key}: upload {sequence}, {len(files)} file(s)")
    if run:
        materialize("data_job", str(key), {UPLOAD_TAG: str(sequence)})
    else:
        say_next(
            f"dagster asset materialize -m ftplatform.definitions --select raw_dataset,curated_dataset --partition {key}"
        )
