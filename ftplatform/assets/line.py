"""What every asset of a model line needs: its job, the line's lease, and a job state that is right when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from ftplatform.assets.reporting import readable_failures
from ftplatform.core.ids import LineKey
from ftplatform.resources import Platform
from ftplatform.resources.jobs import job_of, pin_job, tagged_job
from ftplatform.resources.platform import Parts


@dataclass(frozen=True, slots=True)
class LineRun:
    parts: Parts
    line: LineKey
    job: str

    @property
    def lease(self) -> str:
        return f"line:{self.line}"

    def keep_alive(self) -> int:
        """Take or renew the line's lease; raises Conflict when another job has it."""
        return self.parts.catalog.leases.acquire(self.lease, self.job, self.parts.settings.lease_seconds)

    def release(self) -> None:
        self.parts.catalog.leases.release(self.lease, self.job)


@contextmanager
def line_run(context: dg.AssetExecutionContext, platform: Platform, *, new_job: bool = False) -> Iterator[LineRun]:
    """One step of a line's job.

    The lease and not a queue limit keeps two jobs of a line apart, because `dagster asset materialize` runs in its caller, past
    queue and limits. A failed step gives the lease up and settles the job; a killed one leaves both to the lease's end.
    """
    with readable_failures():
        parts, line = platform.parts, LineKey.parse(context.partition_key)
        run = LineRun(parts, line, _job(context, parts, line, new_job))
        try:
            run.keep_alive()
            yield run
        except BaseException as error:
            run.release()
            state = "cancelled" if parts.catalog.jobs.wants_cancel(run.job) else "failed"
            parts.catalog.jobs.set_state(run.job, state, f"{context.asset_key.path[-1]}: {error}")
            raise


def _job(context: dg.AssetExecutionContext, parts: Parts, line: LineKey, new_job: bool) -> str:
    if not new_job:
        return job_of(context.instance, context.run_id, parts.store, line)
    job = tagged_job(context.instance, context.run_id)
    if job is None:
        parts.catalog.recipes.get(line.recipe)
        job = parts.catalog.jobs.submit(line, "dagster", state="running", run=context.run_id)
        pin_job(context.instance, context.run_id, job)
    else:
        parts.catalog.jobs.set_state(job, "running", run=context.run_id)
    return job
