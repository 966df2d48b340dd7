"""Which job a run works for.

"Latest of the partition" would mix two jobs of one line, so everything downstream of a plan is stored and loaded under the job's
id. The id is the run tag ``ft/job``: given by whoever started the run, inherited by a re-execution, made by ``training_plan``
where it is absent, and, for a run that starts further down, pinned to the job of the line's latest plan.
"""

from __future__ import annotations

from typing import Any, Protocol

from ftplatform.core.errors import NotFound
from ftplatform.core.ids import DatasetKey, LineKey
from ftplatform.store import ObjectStore

JOB_TAG = "ft/job"
UPLOAD_TAG = "ft/upload"
OVERRIDES = "overrides"
"""Document of a job: dotted recipe field -> the value it is to run with, written before the job is submitted."""
FIGURES = "figures"
"""Document of a job: what its training took (``core.job_figures``)."""


class RunInstance(Protocol):
    """What is used of ``DagsterInstance``."""

    def get_run_by_id(self, run_id: str) -> Any: ...
    def add_run_tags(self, run_id: str, new_tags: dict[str, str]) -> None: ...


def run_tag(instance: RunInstance, run_id: str, tag: str) -> str | None:
    """A tag of the run as stored now; a step's own copy of the run may be older than what an earlier step pinned."""
    run = instance.get_run_by_id(run_id)
    value: str | None = run.tags.get(tag) if run is not None else None
    return value


def pin(instance: RunInstance, run_id: str, tag: str, value: str) -> None:
    instance.add_run_tags(run_id, {tag: value})


def job_of(instance: RunInstance, run_id: str, store: ObjectStore, line: LineKey) -> str:
    """The run's job; without the tag, the job of the line's latest plan, pinned from now on.

    Raises:
        NotFound: the line was never planned.
    """
    job = run_tag(instance, run_id, JOB_TAG)
    if job is None:
        latest = store.find_doc(latest_doc("training_plan", str(line)))
        if latest is None:
            raise NotFound(
                f"line {line} has no plan yet: materialize training_plan first, or run `ft train {line.dataset} {line.recipe}`"
            )
        job = str(latest["job"])
        pin(instance, run_id, JOB_TAG, job)
    return job


def latest_doc(asset: str, partition: str) -> str:
    """Name of the document that holds a partition's newest manifest."""
    return f"latest/{asset}/{partition.replace('|', '/')}"


def job_doc(job: str, asset: str) -> str:
    """Name of the document that holds what ``asset`` made for ``job``."""
    return f"jobs/{job}/{asset}"


def version_doc(dataset: DatasetKey, version: str) -> str:
    """The manifest of an accepted version of a dataset."""
    return f"versions/curated_dataset/{dataset}/{version}"


def curation_docs(dataset: DatasetKey, version: str = "") -> str:
    """Prefix of the documents that say what versions were made of, with their erasure indexes.

    A version can have several: two people's rows may be the same once their names are gone.
    """
    return f"curation/{dataset}/{version}".rstrip("/")


def curation_doc(dataset: DatasetKey, version: str, made_of: str) -> str:
    """The document for one set of accepted rows, named by ``made_of``, a digest of them."""
    return f"{curation_docs(dataset, version)}/{made_of[:16]}"
