"""A sensor over the catalog's lines and jobs: asks for retraining, starts what is queued, and settles what died."""

from __future__ import annotations

import time

import dagster as dg
from pydantic import ValidationError

from ftplatform.catalog.jobs import OPEN, PRIORITIES
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.errors import FtError
from ftplatform.core.ids import LineKey
from ftplatform.core.manifests import CuratedDataset
from ftplatform.partitions import datasets, recipes
from ftplatform.resources import Platform
from ftplatform.resources.jobs import JOB_TAG, UPLOAD_TAG, latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.sensors.retraining import due, startable

SILENT_LEASES = 5
"""Lease times without a renewal after which a local run is taken for dead."""


@dg.sensor(job_name="training_job", minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def jobs(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Starts one training run per queued job, and queues jobs for lines with new data or a passed date."""
    parts = platform.parts
    for job in settle_ended(parts, context.instance):
        context.log.warning(f"job {job}: settled, its run ended without a word")
    for line in parts.catalog.jobs.lines():
        try:
            if reason := submit_if_due(parts, line):
                context.log.info(f"{line}: queued ({reason})")
        except (FtError, ValidationError) as error:
            # One line that cannot be read must not stop the others.
            context.log.error(f"{line}: {error}")
    chosen = startable(parts.catalog.jobs.queued(), parts.catalog.jobs.running())
    requests = [
        dg.RunRequest(
            # Run keys are remembered for ever; the attempt is part of it, because a content hash or the job alone could never run twice.
            run_key=f"{job['job']}:{job['attempt']}",
            partition_key=dg.MultiPartitionKey({"dataset": job["dataset"], "recipe": job["recipe"]}),
            tags={JOB_TAG: job["job"], "dagster/priority": str(PRIORITIES[job["priority"]])},
        )
        for job in chosen
    ]
    added = [
        datasets.build_add_request(sorted({job["dataset"] for job in chosen})),
        recipes.build_add_request(sorted({job["recipe"] for job in chosen})),
    ]
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=added if chosen else [])


def submit_if_due(parts: Parts, line: LineKey) -> str | None:
    """Queue a job for the line when it is due and return the reason."""
    document = parts.store.find_doc(latest_doc("curated_dataset", str(line.dataset)))
    if document is None:
        return None
    manifest = CuratedDataset.model_validate(document["manifest"])
    config = DatasetConfig.model_validate(parts.store.get_json(manifest.config))
    # A recipe taken out of train_with keeps its line, for its history, but is not trained by itself any more.
    if str(line.recipe) not in config.train_with:
        return None
    reason = due(config.retrain, manifest.content_digest, parts.catalog.jobs.all(line), time.time())
    if reason is not None:
        priority = parts.catalog.recipes.get(line.recipe).hardware.priority
        parts.catalog.jobs.submit(line, reason, curated=manifest.content_digest, priority=priority)
    return reason


def settle_ended(parts: Parts, instance: dg.DagsterInstance) -> list[str]:
    """Settle jobs that are running on paper only: their run has ended, or nobody showed a sign of life for a long time.

    A run of some of the assets ends without the deployment that settles a job, and a killed one settles nothing; either would
    keep its line from ever training again.
    """
    settled = []
    for job in parts.catalog.jobs.running():
        run = instance.get_run_by_id(job["run"]) if job["run"] else None
        lease = f"line:{job['dataset']}|{job['recipe']}"
        silent = parts.catalog.leases.free(lease, for_seconds=SILENT_LEASES * parts.settings.lease_seconds)
        old = time.time() - job["created_at"] > SILENT_LEASES * parts.settings.lease_seconds
        # On a cluster a pod may wait long for its GPU without a sign of life; there the run's end is what counts.
        dead = parts.settings.executor == "local" and silent and old
        if (run is not None and run.is_finished) or dead:
            parts.catalog.jobs.set_state(job["job"], "failed", "its run ended before the deployment")
            settled.append(job["job"])
    return settled


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5)
def failed_runs(context: dg.RunFailureSensorContext, platform: Platform) -> None:
    """Settles the job, or the upload, of a run that died without a word, so that it can be asked for again."""
    settle(platform.parts, context.dagster_run, "failed", context.failure_event.message or "the run failed")


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5
)
def canceled_runs(context: dg.RunStatusSensorContext, platform: Platform) -> None:
    """Settles the job of a run that was cancelled in Dagster."""
    settle(platform.parts, context.dagster_run, "cancelled", "cancelled in Dagster")


def settle(parts: Parts, run: dg.DagsterRun, state: str, message: str) -> None:
    """Set an unfinished job's or upload's state; one that an asset settled already keeps its better message."""
    job = run.tags.get(JOB_TAG)
    if job is not None and parts.catalog.jobs.get(job)["state"] in OPEN:
        parts.catalog.jobs.set_state(job, state, message)
    upload = run.tags.get(UPLOAD_TAG)
    if upload is not None:
        parts.catalog.datasets.fail_pending(int(upload), message)
