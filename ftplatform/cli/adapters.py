"""``ft adapter``: trained adapters merged with each other or into their base, and taken out of the store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ftplatform.cli.common import console, open_parts
from ftplatform.core.errors import InvalidConfig, NotFound, PayloadFailed
from ftplatform.core.ids import LineKey
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.store.adapters import adapter_config

app = typer.Typer(no_args_is_help=True)
_PACKAGE = Path(__file__).resolve().parents[2]
_REF = "tenant/name|recipe@n, whose newest adapter counts, or the digest of an adapter (64 characters)"


@app.command()
def merge(
    adapters: Annotated[list[str], typer.Argument(help=_REF)],
    method: Annotated[str, typer.Option(help="linear, ties, dare or dare-ties")] = "linear",
    weights: Annotated[str | None, typer.Option(help="a number for each, with commas; default equal shares")] = None,
    density: Annotated[float, typer.Option(help="share of each change that is kept, not with linear")] = 0.5,
    rank: Annotated[
        int | None, typer.Option(min=1, help="of the merged adapter; default the sum of their ranks")
    ] = None,
    seed: Annotated[int, typer.Option(help="of DARE's choice")] = 17,
    out: Annotated[Path | None, typer.Option(help="a new folder to write it to, too")] = None,
) -> None:
    """Make several LoRA adapters of one base into one, in the store; prints its digest."""
    parts = open_parts()
    found = [_find(parts, one) for one in adapters]
    try:
        given = [float(one) for one in weights.split(",")] if weights else [1 / len(found)] * len(found)
    except ValueError as error:
        raise InvalidConfig(f"--weights {weights}: accepted are numbers with commas, for example 0.7,0.3") from error
    with tempfile.TemporaryDirectory(prefix="ft-merge-") as folder:
        work = Path(folder)
        folders = [work / f"adapter-{number}-{digest[:8]}" for number, digest in enumerate(found)]
        for digest, place in zip(found, folders, strict=True):
            parts.store.fetch_tree(digest, place)
        request = {
            "folders": [str(place) for place in folders], "weights": given, "into": str(work / "merged"),
            "method": method, "density": density, "rank": rank, "seed": seed,
        }  # fmt: skip
        record = _run(parts, work, {"work": "merge", **request})
        made = parts.store.put_tree(work / "merged")
    console.print(f"merged by {record['method']}: rank {record['rank']}, {record['kept']:.1%} of the change kept")
    console.print(made, soft_wrap=True, highlight=False)
    if out is not None:
        parts.store.fetch_tree(made, _new(out))


@app.command()
def export(
    adapter: Annotated[str, typer.Argument(help=_REF)],
    out: Annotated[Path, typer.Option(help="a new folder")],
    merged: Annotated[bool, typer.Option("--merged", help="as one model with its base, in safetensors")] = False,
    dtype: Annotated[str, typer.Option(help="with --merged: fp32, which answers the same, or bf16")] = "fp32",
) -> None:
    """Write an adapter, or its base with the adapter merged into the weights, to a folder that Hugging Face loads offline."""
    parts = open_parts()
    digest = _find(parts, adapter)
    config = adapter_config(parts.store, digest)
    if not merged or config is None:
        parts.store.fetch_tree(digest, _new(out))
        console.print(
            f"{out}: {'full weights' if config is None else config['peft_type']} {digest[:12]}", soft_wrap=True
        )
        return
    if dtype not in ("fp32", "bf16"):
        raise InvalidConfig(f"--dtype {dtype}: accepted are fp32 and bf16")
    base = re.match(r"sha256:([0-9a-f]{64})", str(config.get("base_model_name_or_path")))
    if base is None:
        raise NotFound(f"adapter {digest[:12]} does not name its base by digest, so it was not trained here")
    _new(out)
    with tempfile.TemporaryDirectory(prefix="ft-export-") as folder:
        work = Path(folder)
        places = {
            "base": str(parts.store.fetch_tree(base[1], work / "base")),
            "adapter": str(parts.store.fetch_tree(digest, work / "adapter")),
            "into": str(out.resolve()),
        }
        record = _run(parts, work, {"work": "export", **places, "dtype": dtype})
    console.print(
        f"{out}: base and adapter {digest[:12]} as one model in {dtype}; logits differ by at most "
        f"{record['largest_difference']:.1e} of the largest", soft_wrap=True, highlight=False,
    )  # fmt: skip


def _find(parts: Parts, given: str) -> str:
    """Digest of the adapter that ``given`` names."""
    if re.fullmatch(r"[0-9a-f]{64}", given):
        parts.store.tree(given)
        return given
    line = LineKey.parse(given)
    document = parts.store.find_doc(latest_doc("adapter", str(line)))
    if document is None:
        raise NotFound(f"line {line} was never trained: `ft train` makes its adapter")
    return str(document["manifest"]["weights"])


def _new(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidConfig(f"--out {out}: found something there; accepted is a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _run(parts: Parts, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The work in a process that has torch, as a payload has it: this one does not."""
    (folder / "request.json").write_text(json.dumps(request))
    python = parts.settings.payload_python or sys.executable
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(_PACKAGE)}
    command = [python, "-m", "ftplatform.training.export", str(folder / "request.json")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PATH": os.defpath, **offline})
    result = folder / "result.json"
    if not result.is_file():
        raise PayloadFailed(f"{request['work']} ended without a result: {done.stderr.strip()[-500:]}", retry_helps=True)
    answer = json.loads(result.read_text())
    if "error" in answer:
        raise InvalidConfig(answer["error"])
    record: dict[str, Any] = answer["record"]
    return record
