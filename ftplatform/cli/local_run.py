"""Running a job in this process, without daemon or webserver; the run is in the Dagster UI all the same."""

from __future__ import annotations

from typing import Any

from ftplatform.cli.common import console, open_instance
from ftplatform.cli.progress import Watching
from ftplatform.core.errors import FtError, InvalidConfig
from ftplatform.core.ids import LineKey
from ftplatform.resources.jobs import JOB_TAG
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings

SHORT: dict[str, Any] = {"loggers": {"console": {}}}
"""Dagster takes a definition's own logger only when the run names it."""


def materialize(job: str, partition: str, tags: dict[str, str] | None = None, ops: dict[str, Any] | None = None) -> str:
    """Run ``job`` for one partition and return the run's id; ``ops`` is asset -> its configuration.

    Raises:
        FtError: the run failed; the message has the failed step's own description.
    """
    from ftplatform.definitions import defs

    if load_settings().executor != "local":
        raise InvalidConfig(
            f"{job} runs on the cluster: start it in the Dagster UI, or queue a training with `ft train --queue`"
        )
    config = SHORT | {"ops": {name: {"config": values} for name, values in (ops or {}).items()}}
    with open_instance() as instance, Watching(console, load_settings().home / "payloads"):
        result = defs.resolve_job_def(job).execute_in_process(
            partition_key=partition, instance=instance, tags=tags or {}, raise_on_error=False, run_config=config
        )
        if not result.success:
            reasons = [_reason(event.step_failure_data) for event in result.all_events if event.is_step_failure]
            raise FtError(
                f"{job} for {partition} failed: {'; '.join(reasons) or 'see the run in Dagster'} (run {result.run_id})"
            )
        console.print(f"{job} for {partition}: done (run {result.run_id})")
        return result.run_id


def run_job(parts: Parts, name: str, line: LineKey, job: str, ops: dict[str, Any] | None = None) -> None:
    """Materialize the Dagster job ``name`` as the line's job ``job``, which is settled whatever happens."""
    try:
        materialize(name, str(line), {JOB_TAG: job}, ops)
    except BaseException as error:
        # What fails before the first asset runs is settled by nobody else.
        if parts.catalog.jobs.get(job)["state"] == "running":
            parts.catalog.jobs.set_state(job, "failed", str(error) or type(error).__name__)
        raise
    row = parts.catalog.jobs.get(job)
    console.print(f"job {job}: {row['state']}, {row['message']}", markup=False)


def _reason(failure: Any) -> str:
    """The step's own description, else the innermost error's message."""
    if failure.user_failure_data is not None:
        return str(failure.user_failure_data.description)
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else "see the run in Dagster"
