"""``ft dataset trace``: where a person's or a row's data went."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ftplatform.cli.common import console, open_parts
from ftplatform.core.errors import InvalidKey
from ftplatform.core.ids import DatasetKey
from ftplatform.resources.trace import Found, trace


def trace_dataset(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    subject: Annotated[
        str | None, typer.Option(help="an identifier as it stood in the data: an e-mail address, a phone number")
    ] = None,
    row: Annotated[str | None, typer.Option(help="a row's hash, at least its first 32 hexadecimal characters")] = None,
    source: Annotated[str | None, typer.Option(help="a place of an upload, file:line")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Which versions, token shards, adapters and registered models hold a person's or a row's data.

    Exit code 0: something was found; 1: nothing was.
    """
    if sum(one is not None for one in (subject, row, source)) != 1:
        raise InvalidKey("trace needs one of --subject, --row and --source")
    if row is not None and (len(row) < 32 or any(c not in "0123456789abcdef" for c in row)):
        raise InvalidKey(
            f"--row is {row!r}: accepted are the first 32 or all 64 hexadecimal characters of a row's hash"
        )
    key = DatasetKey.parse(dataset)
    found = list(trace(open_parts(), key, subject=subject, row_hash=row, source=source))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        for one in found:
            _say(one)
        if not found:
            console.print(f"{key}: no version holds it")
    if not found:
        raise typer.Exit(1)


def _say(found: Found) -> None:
    console.print(f"version {found.version[:12]}{' (in use)' if found.in_use else ''}", highlight=False)
    for row in found.rows:
        console.print(f"  {row.side:11} {row.source}  row {row.hash}", highlight=False, markup=False)
    for job in found.trained:
        console.print(f"  trained by {job.job} with {job.recipe}: {job.state}", highlight=False)
        for name in job.shards:
            console.print(f"    shard   {name}", highlight=False)
        if job.adapter:
            console.print(f"    adapter {job.adapter}", highlight=False)
        if job.registered:
            console.print(f"    model   {job.registered}", highlight=False)
    if not found.trained:
        console.print("  nothing was trained on it")
