"""A sensor on the uploads folder: each complete set of files becomes one upload and one data run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.core.errors import FtError
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import SourceFile
from ftplatform.partitions import datasets
from ftplatform.resources import Platform
from ftplatform.resources.jobs import UPLOAD_TAG
from ftplatform.resources.platform import Parts
from ftplatform.sensors.uploads_folder import FileSet, at_rest, scan


@dg.sensor(job_name="data_job", minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def uploads(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Takes in what customers drop into ``<uploads>/<tenant>/<dataset>/``."""
    parts = platform.parts
    before = json.loads(context.cursor) if context.cursor else {"seen": {}, "taken": {}, "refused": {}}
    current, refused = scan(parts.settings.uploads)
    for folder, reason in refused.items():
        if folder not in before["refused"]:
            context.log.error(f"{folder} in the uploads folder is ignored: {reason}")
    taken: dict[str, FileSet] = dict(before["taken"])
    for key, files in at_rest(before["seen"], current).items():
        if taken.get(key) != files:
            try:
                sequence, new = take(
                    parts, DatasetKey.parse(key), parts.settings.uploads / key, sorted(files), "folder"
                )
            except (OSError, FtError) as error:
                # One customer's unreadable file must not stop the others; the next tick tries again.
                context.log.error(f"{key}: could not be taken in: {error}")
                continue
            taken[key] = files
            context.log.info(
                f"{key}: upload {sequence}" if new else f"{key}: the same content as upload {sequence}, nothing to do"
            )
    cursor = json.dumps({"seen": current, "taken": taken, "refused": refused})

    # From the catalog and not from this tick alone: an upload recorded by a tick that died, or by `ft dataset push`, is run too.
    pending = startable(parts.catalog.datasets.pending_uploads(), parts.catalog.leases.free)
    requests = [
        dg.RunRequest(
            run_key=f"upload:{upload['seq']}", partition_key=upload["dataset"], tags={UPLOAD_TAG: str(upload["seq"])}
        )
        for upload in pending
    ]
    keys = sorted({upload["dataset"] for upload in pending})
    return dg.SensorResult(
        run_requests=requests,
        cursor=cursor,
        dynamic_partitions_requests=[datasets.build_add_request(keys)] if keys else [],
    )


def startable(pending: list[dict[str, Any]], free: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The oldest pending upload of each dataset that no data run is working on: every set becomes a version, in order."""
    oldest: dict[str, dict[str, Any]] = {}
    for upload in pending:
        oldest.setdefault(upload["dataset"], upload)
    return [upload for dataset, upload in oldest.items() if free(f"dataset:{dataset}")]


def take(parts: Parts, key: DatasetKey, folder: Path, names: list[str], origin: str) -> tuple[int, bool]:
    """Store the files and record them as an upload; returns (sequence number, is new)."""
    files = [
        SourceFile(name=n, digest=parts.store.put_file(folder / n), size=(folder / n).stat().st_size) for n in names
    ]
    return parts.catalog.datasets.upload(key, files, origin)
