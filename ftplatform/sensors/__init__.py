"""What starts work by itself."""

from ftplatform.sensors.jobs import canceled_runs, failed_runs, jobs
from ftplatform.sensors.uploads import uploads

ALL = [uploads, jobs, failed_runs, canceled_runs]

__all__ = ["ALL"]
