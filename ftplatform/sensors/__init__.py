"""What starts work by itself."""

from ftplatform.sensors.jobs import canceled_runs, failed_runs, jobs
from ftplatform.sensors.uploads import uploads
from ftplatform.sensors.uploads_take import intake_job

ALL = [uploads, jobs, failed_runs, canceled_runs]

__all__ = ["ALL", "intake_job"]
