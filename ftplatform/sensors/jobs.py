"""A sensor over the catalog's lines and jobs: asks for retraining, starts what is queued, and settles what died."""

from __future__ import annotations

import time

import dagster as dg

from ftplatform.catalog.jobs import OPEN, PRIORITIES
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.manifests import CuratedDataset
from ftplatform.partitions import datasets, recipes
from ftplatform.resources import Platform
from ftplatform.resources.jobs import JOB_TAG, latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.sensors.retraining import due, startable


@dg.sensor(job_name="training_job", minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def jobs(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Starts one training run per queued job, and queues jobs for lines with new data or a passed date."""
    parts = platform.parts
    for line, reason in submit_due(parts):
        context.log.info(f"{line}: queued ({reason})")
    everything = parts.catalog.jobs.all()
    chosen = startable(parts.catalog.jobs.queued(), [job for job in everything if job["state"] == "running"])
    requests = [
        dg.RunRequest(
            # Run keys are remembered for ever: the attempt is part of it, so that a job can be started again.
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


def submit_due(parts: Parts) -> list[tuple[str, str]]:
    """Queue a job for every line that is due and return (line, reason) of each."""
    submitted = []
    for line in parts.catalog.jobs.lines():
        document = parts.store.find_doc(latest_doc("curated_dataset", str(line.dataset)))
        if document is None:
            continue
        manifest = CuratedDataset.model_validate(document["manifest"])
        config = DatasetConfig.model_validate(parts.store.get_json(manifest.config))
        # A recipe taken out of train_with keeps its line, for its history, but is not trained by itself any more.
        if str(line.recipe) not in config.train_with:
            continue
        reason = due(config.retrain, manifest.content_digest, parts.catalog.jobs.all(line), time.time())
        if reason is not None:
            priority = parts.catalog.recipes.get(line.recipe).hardware.priority
            parts.catalog.jobs.submit(line, reason, curated=manifest.content_digest, priority=priority)
            submitted.append((str(line), reason))
    return submitted


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5)
def failed_runs(context: dg.RunFailureSensorContext, platform: Platform) -> None:
    """Settles the job of a run that died without a word, so that its line is free again."""
    settle(platform.parts, context.dagster_run, "failed", context.failure_event.message or "the run failed")


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5
)
def canceled_runs(context: dg.RunStatusSensorContext, platform: Platform) -> None:
    """Settles the job of a run that was cancelled in Dagster."""
    settle(platform.parts, context.dagster_run, "cancelled", "cancelled in Dagster")


def settle(parts: Parts, run: dg.DagsterRun, state: str, message: str) -> None:
    """Set an unfinished job's state; one that an asset settled already keeps its better message."""
    job = run.tags.get(JOB_TAG)
    if job is not None and parts.catalog.jobs.get(job)["state"] in OPEN:
        parts.catalog.jobs.set_state(job, state, message)
