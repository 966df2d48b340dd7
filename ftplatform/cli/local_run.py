"""Running a job in this process, without daemon or webserver; the run is in the Dagster UI all the same."""

from __future__ import annotations

from ftplatform.cli.common import console, open_instance
from ftplatform.core.errors import FtError

PROGRESS_ONLY = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


def materialize(job: str, partition: str, tags: dict[str, str] | None = None) -> str:
    """Run ``job`` for one partition and return the run's id.

    Raises:
        FtError: the run failed; the message has the failed step's own description.
    """
    from ftplatform.definitions import defs

    with open_instance() as instance:
        result = defs.resolve_job_def(job).execute_in_process(
            partition_key=partition, instance=instance, tags=tags or {}, raise_on_error=False, run_config=PROGRESS_ONLY
        )
        if not result.success:
            reasons = [
                event.step_failure_data.error_display_string.strip().splitlines()[0]
                if event.step_failure_data.user_failure_data is None
                else str(event.step_failure_data.user_failure_data.description)
                for event in result.all_events
                if event.is_step_failure
            ]
            raise FtError(
                f"{job} for {partition} failed: {'; '.join(reasons) or 'see the run in Dagster'} (run {result.run_id})"
            )
        console.print(f"{job} for {partition}: done (run {result.run_id})")
        return result.run_id
