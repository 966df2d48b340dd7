"""TensorBoard: event files in ``<folder>/<experiment>/<run name>``, one more for every attempt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftplatform.core.payload import Tracking
from ftplatform.training.trackers import StepFigures


def open_backend(target: str, tracking: Tracking, key: str) -> TensorBoard:
    return TensorBoard(Path(target) / tracking.experiment / tracking.run_name.replace(" ", "-"))


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        self.where = f"TensorBoard in {folder}"
        self._folder = folder
        self._writer: Any = None
        self._known = 0

    def open(self) -> None:
        # The folder is looked at each time: the writer's own thread keeps the error of a folder that is gone to itself.
        self._folder.mkdir(parents=True, exist_ok=True)

    def send(self, steps: Sequence[StepFigures]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier attempt wrote from this step on is hidden: those steps are computed again.
            self._writer = SummaryWriter(str(self._folder), purge_step=steps[0].step)
        for step, time, figures in steps:
            if step > self._known:
                for name, value in figures.items():
                    self._writer.add_scalar(name, value, step, walltime=time)
                self._known = step
        self._writer.flush()

    def end(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()
