"""A sensor on the uploads: each complete set of files becomes one upload and one data run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from ftplatform.assets import DATA_JOB
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import FtError
from ftplatform.core.ids import DatasetKey
from ftplatform.partitions import datasets
from ftplatform.resources import Platform
from ftplatform.resources.jobs import UPLOAD_TAG
from ftplatform.resources.platform import Parts
from ftplatform.sensors.uploads_folder import at_rest
from ftplatform.sensors.uploads_take import TICK_COST, cost, intake_job, intake_request, open_source, take

EMPTY: dict[str, Any] = {"looked": 0.0, "seen": {}, "taken": {}, "refused": {}}
"""The cursor: time of the last look; per dataset a mark of the files seen on it, and of those taken; names refused."""


@dg.sensor(jobs=[DATA_JOB, intake_job], minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def uploads(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Takes in what customers drop into ``<uploads>/<tenant>/<dataset>/``, a folder or a prefix of a bucket."""
    parts = platform.parts
    cursor = {**EMPTY, **json.loads(context.cursor or "{}")}
    cursor, requests = look(parts, cursor, context.log)

    # From the catalog and not from this tick alone: an upload recorded by a tick that died, or by `ft dataset push`, is run too.
    pending = startable(parts.catalog.datasets.pending_uploads(), parts.catalog.leases.free)
    requests += [
        dg.RunRequest(
            run_key=f"upload:{upload['seq']}",
            partition_key=upload["dataset"],
            job_name=DATA_JOB.name,
            tags={UPLOAD_TAG: str(upload["seq"])},
        )
        for upload in pending
    ]
    keys = sorted({upload["dataset"] for upload in pending})
    return dg.SensorResult(
        run_requests=requests,
        cursor=json.dumps(cursor),
        dynamic_partitions_requests=[datasets.build_add_request(keys)] if keys else [],
    )


def look(parts: Parts, before: dict[str, Any], log: Any) -> tuple[dict[str, Any], list[dg.RunRequest]]:
    """One look at the source: takes what came to rest, as far as a tick allows; returns (cursor, runs for the large sets)."""
    source, now = open_source(parts), time.time()
    if now - before["looked"] < source.look_every:
        return before, []
    found, refused = source.scan()
    for name, reason in refused.items():
        if name not in before["refused"]:
            log.error(f"{name} in the uploads is ignored: {reason}")
    # Marks and not the files themselves: the cursor is stored again on every tick.
    seen = {key: digest_json(files)[:16] for key, files in found.items() if files}
    after: dict[str, Any] = {"looked": now, "seen": seen, "taken": dict(before["taken"]), "refused": refused}
    origin = "s3" if parts.settings.uploads_s3 else "folder"
    requests: list[dg.RunRequest] = []
    left = TICK_COST
    for key, mark in at_rest(before["seen"], seen).items():
        files, price = found[key], cost(found[key])
        if after["taken"].get(key) == mark:
            continue
        if price > TICK_COST:
            # The time, because a run key is remembered for ever and the same files may come again.
            requests.append(intake_request(key, files, origin, f"intake:{key}:{mark}:{now:.0f}"))
            log.info(f"{key}: {price} bytes, taken in by a run of its own")
        elif price > left:
            # Looked at again on the next tick, whatever look_every says.
            after["looked"] = 0.0
            continue
        else:
            left -= price
            try:
                sequence, new = take(parts, source, DatasetKey.parse(key), files, origin)
            except (OSError, FtError) as error:
                # One customer's unreadable file must not stop the others; the next tick tries again.
                log.error(f"{key}: could not be taken in: {error}")
                continue
            log.info(f"{key}: upload {sequence}" if new else f"{key}: the same content as upload {sequence}")
        after["taken"][key] = mark
    return after, requests


def startable(pending: list[dict[str, Any]], free: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The oldest pending upload of each dataset that no data run is working on: every set becomes a version, in order."""
    oldest: dict[str, dict[str, Any]] = {}
    for upload in pending:
        oldest.setdefault(upload["dataset"], upload)
    return [upload for dataset, upload in oldest.items() if free(f"dataset:{dataset}")]
