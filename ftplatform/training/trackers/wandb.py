"""Weights & Biases: offline into a folder (``wandb sync`` sends it on), or to a server, whose key is ``WANDB_API_KEY``.

The run's id is the training's key, so attempts share one run at a server. W&B drops a step that it has already.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ftplatform.core.payload import Tracking
from ftplatform.training.trackers import StepFigures

_START_SECONDS = 30.0
_EXIT = {"FINISHED": 0, "RUNNING": 0, "FAILED": 1}


def open_backend(target: str, tracking: Tracking, key: str) -> Wandb:
    return Wandb(target, tracking, key)


class Wandb:
    def __init__(self, target: str, tracking: Tracking, key: str) -> None:
        self.where = f"W&B at {target}"
        self._target, self._tracking, self._key = target, tracking, key
        self._run: Any = None
        self._known = 0

    def open(self) -> None:
        if self._run is not None:
            return
        # Errors of the client would go to its maker, whatever server the figures go to.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        wandb: Any = import_module("wandb")
        online = "://" in self._target
        if not online:
            Path(self._target).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            **({"base_url": self._target} if online else {}),
            init_timeout=_START_SECONDS,
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            mode="online" if online else "offline",
            dir=None if online else self._target,
            project=self._tracking.experiment.replace("/", "."),
            name=self._tracking.run_name,
            id=self._key[:32],
            resume="allow" if online else None,
            config=dict(self._tracking.tags),
            settings=settings,
        )
        # A resumed run says at which step it goes on.
        self._run, self._known = run, max(0, run.step - 1) if run.resumed else 0

    def send(self, steps: Sequence[StepFigures]) -> None:
        for step, _, figures in steps:
            if step > self._known:
                self._run.log(figures, step=step)
                self._known = step

    def end(self, status: str) -> None:
        self._run.finish(exit_code=_EXIT[status])
