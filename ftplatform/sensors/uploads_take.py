"""Taking a set of files into the store: in the sensor's tick when it is small, in a run of its own when it is not.

A tick is a call with a limit of 60 seconds, and SHA-256 cannot be left half-way and taken up by another process. A run has no
limit, is seen in the UI, and is tried again when its machine dies.
"""

import tempfile
from pathlib import Path
from typing import Protocol

import dagster as dg

from ftplatform.assets.reporting import readable_failures
from ftplatform.core.errors import Conflict
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import SourceFile
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts
from ftplatform.sensors.uploads_folder import FileSet, FolderSource
from ftplatform.sensors.uploads_s3 import S3Source

TICK_COST = 128_000_000
"""Bytes that one tick copies at most: some seconds even on a slow disk or network."""
FILE_COST = 100_000
"""What a file costs beyond its bytes, in bytes: opening it, and writing safely to the disk."""
ATTEMPTS = "3"


class Source(Protocol):
    look_every: float

    def scan(self) -> tuple[dict[str, FileSet], dict[str, str]]: ...
    def files(self, key: DatasetKey) -> FileSet: ...
    def fetch(self, key: DatasetKey, name: str, scratch: Path) -> Path: ...


def open_source(parts: Parts) -> Source:
    """The folder or the prefix that ``FTPLATFORM_UPLOADS`` names."""
    if parts.settings.uploads_s3 is not None:
        return S3Source(parts.settings.uploads_s3, parts.settings.store.endpoint)
    return FolderSource(parts.settings.uploads)


def cost(files: FileSet) -> int:
    return sum(int(state[0]) + FILE_COST for state in files.values())


def take(parts: Parts, source: Source, key: DatasetKey, files: FileSet, origin: str) -> tuple[int, bool]:
    """Store the files and record them as an upload; returns (sequence number, is new).

    Raises:
        Conflict: the dataset changed meanwhile; nothing is recorded, so that an older set never comes after a newer one.
    """
    made = []
    _check_same(source, key, files)
    # In the home and not in /tmp, which is often small and in memory.
    with tempfile.TemporaryDirectory(prefix="take-", dir=parts.settings.home) as scratch:
        for name in sorted(files):
            path = source.fetch(key, name, Path(scratch))
            made.append(SourceFile(name=name, digest=parts.store.put_file(path), size=path.stat().st_size))
    _check_same(source, key, files)
    return parts.catalog.datasets.upload(key, made, origin)


def _check_same(source: Source, key: DatasetKey, files: FileSet) -> None:
    if source.files(key) != files:
        raise Conflict(f"{key} changed while it was being taken in: it is taken when it is at rest", retry_helps=False)


@dg.op(config_schema={"dataset": str, "files": dg.Permissive(), "origin": str})
def take_in(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Copies one large set of files into the store and records it as an upload; the sensor then starts its data run."""
    with readable_failures():
        config = context.op_config
        parts, key = platform.parts, DatasetKey.parse(config["dataset"])
        files = {name: list(state) for name, state in config["files"].items()}
        sequence, new = take(parts, open_source(parts), key, files, config["origin"])
        same = "" if new else ": the same content, nothing to do"
        context.log.info(f"{key}: upload {sequence}{same}")


@dg.job(executor_def=dg.in_process_executor, description="Takes in an upload that is too large for a sensor's tick.")
def intake_job() -> None:
    take_in()


def intake_request(key: str, files: FileSet, origin: str, run_key: str) -> dg.RunRequest:
    config = {"dataset": key, "files": files, "origin": origin}
    return dg.RunRequest(
        run_key=run_key,
        job_name=intake_job.name,
        run_config={"ops": {"take_in": {"config": config}}},
        # A run whose machine died is started again; one that failed for good says so and is not.
        tags={"dagster/max_retries": ATTEMPTS, "ft/dataset": key},
    )
