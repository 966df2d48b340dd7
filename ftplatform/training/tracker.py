"""Per-step figures to MLflow, buffered. A tracker that is away costs figures, never a training.

The run is found again by the tag ``ft.payload`` = the spec's key, so a resumed attempt goes on in the same run, and
steps that are there already are not written twice (a resumed run computes them again, to the bit).
"""

from __future__ import annotations

import time
from typing import Any

from ftplatform.core.payload import Tracking

FLUSH_SECONDS = 2.0
FLUSH_STEPS = 50
PAYLOAD_TAG = "ft.payload"
_BACK_OFF = (1.0, 60.0)
_LAST_TRIES = 4
_PER_CALL = 1000
"""MLflow's own limit of metrics a call."""


class Tracker:
    """``log`` keeps, and every two seconds or fifty steps sends; after an error it waits 1, 2, 4 ... 60 s before the
    next try.
    """

    def __init__(self, tracking: Tracking, key: str) -> None:
        self._tracking, self._key = tracking, key
        self._client: Any = None
        self._run = ""
        self._known = 0
        self._waiting: list[tuple[int, int, dict[str, float]]] = []
        self._next = time.monotonic() + FLUSH_SECONDS
        self._pause = _BACK_OFF[0]
        self.error: str | None = None
        """What went wrong last; None after a success."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Keep the figures of one step, with the time of now."""
        self._waiting.append((step, int(time.time() * 1000), figures))
        late = time.monotonic() >= self._next
        if late or (self.error is None and len(self._waiting) >= FLUSH_STEPS):
            self._flush()

    def close(self, status: str) -> str | None:
        """Send what is left, trying a few times, end the run with an MLflow status; returns what could not be told, if
        anything.
        """
        for number in range(_LAST_TRIES):
            if self._flush(status):
                return None
            if number + 1 < _LAST_TRIES:
                time.sleep(self._pause if self._pause < 4 else 4)
        return f"{len(self._waiting)} steps of metrics did not reach the tracker at {self._tracking.uri}: {self.error}"

    def _flush(self, status: str | None = None) -> bool:
        try:
            self._connect()
            self._send()
            if status:
                self._client.set_terminated(self._run, status)
        except Exception as error:  # noqa: BLE001 - whatever a tracker's client raises, the training goes on; close() tells
            self.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self._next = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _BACK_OFF[1])
            return False
        self.error, self._pause = None, _BACK_OFF[0]
        self._next = time.monotonic() + FLUSH_SECONDS
        return True

    def _connect(self) -> None:
        if self._run:
            return
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._tracking.uri)
        found = client.get_experiment_by_name(self._tracking.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._tracking.experiment)
        runs = client.search_runs([experiment], f"tags.`{PAYLOAD_TAG}` = '{self._key}'", max_results=1)
        if runs:
            run = runs[0].info.run_id
            client.update_run(run, status="RUNNING")
            history = client.get_metric_history(run, "loss")
            self._known = max((metric.step for metric in history), default=0)
        else:
            tags = {**self._tracking.tags, PAYLOAD_TAG: self._key}
            run = client.create_run(experiment, run_name=self._tracking.run_name, tags=tags).info.run_id
        self._client, self._run = client, run

    def _send(self) -> None:
        from mlflow.entities import Metric

        while self._waiting:
            taken = self._waiting[: _PER_CALL // max(len(figures) for _, _, figures in self._waiting)]
            metrics = [
                Metric(name, value, stamp, step)
                for step, stamp, figures in taken
                if step > self._known
                for name, value in figures.items()
            ]
            if metrics:
                self._client.log_batch(self._run, metrics=metrics)
            del self._waiting[: len(taken)]
