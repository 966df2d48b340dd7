"""``ft base``: register base models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ftplatform.cli.common import add_partition, console, open_parts, say_next, show
from ftplatform.cli.local_run import materialize
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import BaseKey
from ftplatform.partitions import bases
from ftplatform.resources.platform import Parts

app = typer.Typer(no_args_is_help=True)
STARTER_STEPS = 360


@app.command()
def add(
    slug: Annotated[str, typer.Argument(help="the name recipes use, for example starter or llama-3-8b")],
    starter: Annotated[bool, typer.Option("--starter", help="the tiny model the platform builds by itself")] = False,
    folder: Annotated[Path | None, typer.Option(help="a local Hugging Face folder with safetensors")] = None,
    hub: Annotated[str | None, typer.Option(help="a hub id, for example Qwen/Qwen2.5-0.5B-Instruct")] = None,
    revision: Annotated[str | None, typer.Option(help="the hub commit, 40 hexadecimal characters")] = None,
    seed: Annotated[int, typer.Option(help="of the starter")] = 7,
) -> None:
    """Register a base model; its partition key is slug@revision8."""
    if sum((starter, folder is not None, hub is not None)) != 1:
        raise InvalidConfig("ft base add: give exactly one of --starter, --folder PATH and --hub ID")
    parts = open_parts()
    key = register(parts, slug, _source(parts, starter, folder, hub, revision, seed))
    console.print(f"base model {key} registered")
    say_next(
        f"dagster asset materialize -m ftplatform.definitions --select base_model,base_model_scores --partition {key}"
    )


@app.command()
def make(slug: Annotated[str, typer.Argument(help="a registered base model; its newest revision")]) -> None:
    """Build, copy or fetch it, and score it on the mandatory suites, in this process."""
    parts = open_parts()
    materialize("base_job", str(parts.catalog.bases.newest(slug)))


@app.command("list")
def list_bases() -> None:
    """Registered base models, oldest first."""
    rows = [
        (row["base"], ", ".join(f"{k}={v}" for k, v in row["source"].items()))
        for row in open_parts().catalog.bases.all()
    ]
    show("base models", ("base", "source"), rows)


def register(parts: Parts, slug: str, source: dict[str, Any]) -> BaseKey:
    """Register the source and its partition; the revision is the source's digest, so another source is another key."""
    key = BaseKey(slug, digest_json(source)[:8])
    parts.catalog.bases.add(key, source)
    add_partition(bases, str(key))
    return key


def starter_source(seed: int = 7) -> dict[str, Any]:
    return {"kind": "starter", "seed": seed, "steps": STARTER_STEPS}


def _source(
    parts: Parts, starter: bool, folder: Path | None, hub: str | None, revision: str | None, seed: int
) -> dict[str, Any]:
    if starter:
        return starter_source(seed)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise NotFound(f"{folder} is not a Hugging Face model folder: it has no config.json")
        return {"kind": "folder", "tree": parts.store.put_tree(folder)}
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InvalidConfig(
            f"ft base add --hub {hub}: --revision must be a full commit (40 hexadecimal characters), found {revision!r}"
        )
    return {"kind": "hub", "repo": hub, "revision": revision}
