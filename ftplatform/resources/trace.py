"""From a person or a row to everything it went into: versions of a dataset, token shards, adapters, registered models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import Adapter, RegistryEntry, TokenizedShards
from ftplatform.data.curation.erasure import Traced, look_up, subject_key
from ftplatform.resources.jobs import curation_docs, job_doc
from ftplatform.resources.platform import Parts


@dataclass(frozen=True, slots=True)
class Trained:
    """What one job made of a version."""

    job: str
    recipe: str
    state: str
    shards: tuple[str, ...]
    adapter: str | None
    registered: str | None
    """``model version N`` with its verdict."""


@dataclass(frozen=True, slots=True)
class Found:
    version: str
    in_use: bool
    rows: tuple[Traced, ...]
    trained: tuple[Trained, ...]


def trace(
    parts: Parts,
    dataset: DatasetKey,
    *,
    subject: str | None = None,
    row_hash: str | None = None,
    source: str | None = None,
) -> Iterator[Found]:
    """Versions of the dataset that hold a matching row, and what was trained on each.

    ``subject`` is an identifier as it stood in the data (an e-mail address, a phone number);
    rows it was scrubbed from are found too. A version whose rows were left out is given with those rows marked so.
    """
    key = subject_key(parts.secret(dataset.tenant), subject) if subject is not None else None
    current = parts.catalog.datasets.curated(dataset)
    jobs = [job for job in parts.catalog.jobs.all() if job["dataset"] == str(dataset)]
    matching: dict[str, dict[Traced, None]] = {}
    for name in parts.store.list_docs(curation_docs(dataset)):
        index = parts.store.get_bytes(parts.store.get_doc(name)["index"])
        found = look_up(index, subject=key, row_hash=row_hash, source=source)
        matching.setdefault(name.split("/")[-2], {}).update(dict.fromkeys(found))
    for version, rows in matching.items():
        if rows:
            trained = tuple(_trained(parts, job) for job in jobs if job["curated"] == version)
            yield Found(version, version == current, tuple(rows), trained)


def _trained(parts: Parts, job: dict[str, str]) -> Trained:
    def manifest(asset: str) -> dict[str, object] | None:
        document = parts.store.find_doc(job_doc(job["job"], asset))
        return document["manifest"] if document else None

    shards, adapter, entry = manifest("tokenized_shards"), manifest("adapter"), manifest("registry_entry")
    registered = RegistryEntry.model_validate(entry) if entry else None
    return Trained(
        job["job"],
        job["recipe"],
        job["state"],
        tuple(f for files in TokenizedShards.model_validate(shards).shards.values() for f in files) if shards else (),
        Adapter.model_validate(adapter).weights if adapter else None,
        f"{registered.model} version {registered.version} ({registered.verdict})" if registered else None,
    )
