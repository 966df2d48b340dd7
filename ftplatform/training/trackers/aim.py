"""Aim: into a folder, or to a server at ``aim://host:port``. Attempts find their run by its description, which is the
training's key: parameters can be searched only once Aim has indexed the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ftplatform.core.payload import Tracking
from ftplatform.training.trackers import StepFigures


def open_backend(target: str, tracking: Tracking, key: str) -> Aim:
    return Aim(target, tracking, key)


class Aim:
    def __init__(self, target: str, tracking: Tracking, key: str) -> None:
        self.where = f"Aim at {target}"
        self._target, self._tracking, self._key = target, tracking, key
        self._run: Any = None
        self._known = 0

    def open(self) -> None:
        if self._run is not None:
            return
        aim: Any = import_module("aim")
        if "://" not in self._target:
            Path(self._target).mkdir(parents=True, exist_ok=True)
        repo = aim.Repo.from_path(self._target, init="://" not in self._target)
        found = next(iter(repo.query_runs(f"run.description == '{self._key}'", report_mode=0).iter_runs()), None)
        run = aim.Run(
            run_hash=found.run.hash if found else None,
            repo=repo,
            experiment=None if found else self._tracking.experiment,
            # A killed attempt leaves its lock; the platform's own fence keeps two attempts apart.
            force_resume=found is not None,
            system_tracking_interval=None,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        if found is None:
            run.name = self._tracking.run_name
            run.description = self._key
            for name, value in self._tracking.tags.items():
                run[name] = value
        run["status"] = "RUNNING"
        self._run, self._known = run, run.get("last_step", 0)

    def send(self, steps: Sequence[StepFigures]) -> None:
        for step, _, figures in steps:
            if step > self._known:
                for name, value in figures.items():
                    self._run.track(value, name=name, step=step)
                self._run["last_step"] = self._known = step

    def end(self, status: str) -> None:
        self._run["status"] = status
        self._run.close()
