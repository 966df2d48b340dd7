"""MLflow: the run is found again by the tag ``ft.payload`` = the training's key, so a resumed attempt goes on in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftplatform.core.payload import Tracking
from ftplatform.training.trackers import StepFigures

PAYLOAD_TAG = "ft.payload"
_PER_CALL = 1000
"""MLflow's own limit of metrics a call."""


class Mlflow:
    def __init__(self, tracking: Tracking, key: str) -> None:
        self.where = f"MLflow at {tracking.uri}"
        self._tracking, self._key = tracking, key
        self._client: Any = None
        self._known = 0
        self.run = ""
        """MLflow's id, once open."""

    def open(self) -> None:
        if self.run:
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
        self._client, self.run = client, run

    def send(self, steps: Sequence[StepFigures]) -> None:
        from mlflow.entities import Metric

        batch: list[Any] = []
        for number, (step, time, figures) in enumerate(steps):
            if step > self._known:
                batch += [Metric(name, value, int(time * 1000), step) for name, value in figures.items()]
            full = number + 1 == len(steps) or len(batch) + len(steps[number + 1].figures) > _PER_CALL
            if batch and full:
                self._client.log_batch(self.run, metrics=batch)
                self._known, batch = step, []

    def end(self, status: str) -> None:
        self._client.set_terminated(self.run, status)
