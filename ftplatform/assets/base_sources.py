"""Where a base model's bytes come from: built here, a folder taken in by ``ft base add``, or a pinned hub revision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.payloads import run_payload
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import BaseKey
from ftplatform.core.payload import StarterSpec
from ftplatform.resources.platform import Parts
from ftplatform.store.cache import cache_key, cached, code_digest

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]


def make_weights(
    context: dg.AssetExecutionContext, parts: Parts, key: BaseKey, source: dict[str, Any]
) -> tuple[str, bool]:
    """(tree of the model folder, whether it was there already).

    Raises:
        InvalidConfig: a source of an unknown kind.
        NotFound: the hub has no such revision, or cannot be reached.
    """
    if source["kind"] == "folder":
        return source["tree"], True
    if source["kind"] == "starter":
        inputs = {"seed": source["seed"], "steps": source["steps"], "threads": parts.settings.threads}
        work = cache_key("base", code=code_digest("training/starter"), inputs=inputs)
        return cached(parts.store, "base", work, lambda: _build(context, parts, key, work, source))
    if source["kind"] == "hub":
        work = cache_key("hub", code="1", inputs={"repo": source["repo"], "revision": source["revision"]})
        return cached(parts.store, "base", work, lambda: _download(parts, source))
    raise InvalidConfig(f"base model {key}: source kind {source['kind']!r}; accepted are starter, folder and hub")


def _build(context: dg.AssetExecutionContext, parts: Parts, key: BaseKey, work: str, source: dict[str, Any]) -> str:
    spec = StarterSpec(
        key=work, store=parts.settings.store, seed=source["seed"], steps=source["steps"], threads=parts.settings.threads
    )
    return run_payload(context, parts, spec, stage="pre-training", job=str(key)).artifacts["weights"]


def _download(parts: Parts, source: dict[str, Any]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with tempfile.TemporaryDirectory(dir=parts.settings.home) as folder:
        try:
            snapshot_download(source["repo"], revision=source["revision"], allow_patterns=HUB_FILES, local_dir=folder)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise NotFound(
                f"hub model {source['repo']} at revision {source['revision']} could not be fetched: {error}; where no hub can be "
                "reached, register a local folder with `ft base add SLUG --folder PATH`",
                retry_helps=True,
            ) from error
        # The client keeps its own notes in the folder; they are not part of the model.
        for note in Path(folder, ".cache").rglob("*"):
            if note.is_file():
                note.unlink()
        return parts.store.put_tree(Path(folder))
