"""What every asset of a model line needs: its job, the line's lease, and a job state that is right when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from ftplatform.assets.lost import surviving_eviction
from ftplatform.assets.reporting import readable_failures
from ftplatform.core.errors import Conflict, PayloadFailed
from ftplatform.core.ids import LineKey
from ftplatform.core.recipe import Recipe
from ftplatform.recipes.overrides import overridden
from ftplatform.resources import Platform
from ftplatform.resources.jobs import JOB_TAG, OVERRIDES, job_doc, job_of, pin, run_tag
from ftplatform.resources.platform import Parts


@dataclass(frozen=True, slots=True)
class LineRun:
    parts: Parts
    line: LineKey
    job: str
    run: str

    @property
    def lease(self) -> str:
        return f"line:{self.line}"

    @property
    def overrides(self) -> dict[str, Any]:
        """Dotted recipe field -> the value that the job asked for in place of the recipe's."""
        return self.parts.store.find_doc(job_doc(self.job, OVERRIDES)) or {}

    @property
    def recipe(self) -> Recipe:
        """The line's recipe as this job runs it.

        Raises:
            InvalidConfig: the job's values make no recipe.
        """
        return overridden(self.parts.catalog.recipes.get(self.line.recipe), self.overrides)

    def keep_alive(self) -> int:
        """Take or renew the line's lease; raises Conflict when another job has it."""
        return self.parts.catalog.leases.acquire(self.lease, self.run, self.parts.settings.lease_seconds)

    def release(self) -> None:
        self.parts.catalog.leases.release(self.lease, self.run)


@contextmanager
def line_run(context: dg.AssetExecutionContext, platform: Platform, *, new_job: bool = False) -> Iterator[LineRun]:
    """One step of a line's job.

    The lease and not a queue limit keeps two runs of a line apart, because `dagster asset materialize` runs in its caller, past
    queue and limits. A failed step gives the lease up and settles the job; a killed one leaves both to the lease's end and to
    the job sensor.
    """
    with readable_failures():
        parts, line = platform.parts, LineKey.parse(context.partition_key)
        run = LineRun(parts, line, _job(context, parts, line, new_job), context.run_id)
        try:
            _take(context, run)
            if parts.catalog.jobs.wants_cancel(run.job):
                raise PayloadFailed(f"job {run.job} was cancelled", retry_helps=False)
            if not _ended_well(run):
                parts.catalog.jobs.set_state(run.job, "running", run=context.run_id)
            with surviving_eviction(context, parts):
                yield run
        except dg.RetryRequested:
            # The job goes on, in a step that takes the lease again.
            run.release()
            raise
        except BaseException as error:
            _settle(context, run, error)
            raise


def _ended_well(run: LineRun) -> bool:
    """A job that came to its verdict keeps it: materializing one of its assets again is no new training."""
    return run.parts.catalog.jobs.get(run.job)["state"] in ("promoted", "quarantined")


def _take(context: dg.AssetExecutionContext, run: LineRun) -> None:
    """Take the lease, also from a run that has ended: one that materialized only some of the assets does not release it."""
    try:
        run.keep_alive()
    except Conflict:
        holder = run.parts.catalog.leases.holder(run.lease)
        before = context.instance.get_run_by_id(holder) if holder else None
        if before is None or not before.is_finished:
            raise
        run.parts.catalog.leases.release(run.lease, before.run_id)
        run.keep_alive()


def _settle(context: dg.AssetExecutionContext, run: LineRun, error: BaseException) -> None:
    stopped = isinstance(error, (dg.DagsterExecutionInterruptedError, KeyboardInterrupt))
    try:
        run.release()
        if _ended_well(run):
            return
        cancelled = stopped or run.parts.catalog.jobs.wants_cancel(run.job)
        message = "stopped from outside" if stopped else str(getattr(error, "description", None) or error)
        run.parts.catalog.jobs.set_state(
            run.job, "cancelled" if cancelled else "failed", f"{context.asset_key.path[-1]}: {message}"
        )
    except SQLAlchemyError as unsettled:
        # The first error is the one to raise; the job sensor settles what a database that is away could not be told.
        context.log.warning(f"job {run.job} could not be settled: {unsettled}")


def _job(context: dg.AssetExecutionContext, parts: Parts, line: LineKey, new_job: bool) -> str:
    job = _find_job(context, parts, line, new_job)
    row = parts.catalog.jobs.get(job)
    # A run relaunched with the tags of another would carry one tenant's weights to another's model.
    if (row["dataset"], row["recipe"]) != (str(line.dataset), str(line.recipe)):
        raise Conflict(
            f"job {job} is of {row['dataset']}|{row['recipe']}, this run is of {line}: start it without the tag {JOB_TAG}",
            retry_helps=False,
        )
    return job


def _find_job(context: dg.AssetExecutionContext, parts: Parts, line: LineKey, new_job: bool) -> str:
    if not new_job:
        return job_of(context.instance, context.run_id, parts.store, line)
    job = run_tag(context.instance, context.run_id, JOB_TAG)
    if job is None:
        parts.catalog.recipes.get(line.recipe)
        job = parts.catalog.jobs.submit(line, "dagster", state="running", run=context.run_id)
        pin(context.instance, context.run_id, JOB_TAG, job)
    return job
