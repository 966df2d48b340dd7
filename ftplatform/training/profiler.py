"""A profile of some steps: a Chrome trace (``chrome://tracing``, Perfetto) and a table of the costliest operators.

Reading the clock changes no number of the training, so its weights are those of one without a profile, to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback, TrainerControl, TrainerState

from ftplatform.store import ObjectStore

WAIT, WARM_UP = 1, 1
"""Steps that are left out, and that are traced and thrown away: the first ones allocate and choose kernels."""
_ROWS = 15
_TRACE = "trace.json.gz"


class StepProfile(TrainerCallback):
    """Traces ``steps`` steps of this attempt, from its third one on; fewer where it ends before."""

    def __init__(self, steps: int, folder: Path) -> None:
        self._steps, self._folder = steps, folder
        self._profiler: profile | None = None
        self._seen = 0
        self.table: list[dict[str, Any]] = []
        """Operators by their own time, costliest first: ``operator``, ``ms`` (a step), ``share``, ``calls`` (a step)."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        plan = schedule(wait=WAIT, warmup=WARM_UP, active=self._steps, repeat=1)
        self._profiler = profile(activities=activities, schedule=plan, on_trace_ready=self._keep, acc_events=True)
        self._profiler.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        if self._profiler is not None:
            self._seen += 1
            self._profiler.step()
            if self._seen == WAIT + WARM_UP + self._steps:
                self._end()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        if self._profiler is not None:
            self._end()

    def artifacts(self, store: ObjectStore) -> dict[str, str]:
        """``profile`` (the trace, JSON in gzip) and ``operators`` (the table, JSON); none where no step was traced."""
        trace = self._folder / _TRACE
        if not trace.exists():
            return {}
        return {"profile": store.put_file(trace), "operators": store.put_json(self.table)}

    def _end(self) -> None:
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        profiler.stop()

    def _keep(self, profiler: profile) -> None:
        if self._seen <= WAIT + WARM_UP:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / _TRACE))
        traced = self._seen - WAIT - WARM_UP
        name = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        events = [event for event in profiler.key_averages() if not event.key.startswith("ProfilerStep")]
        total = sum(getattr(event, name) for event in events) or 1.0
        events.sort(key=lambda event: -getattr(event, name))
        self.table = [
            {
                "operator": event.key,
                "ms": round(getattr(event, name) / 1000 / traced, 3),
                "share": round(getattr(event, name) / total, 4),
                "calls": round(event.count / traced, 1),
            }
            for event in events[:_ROWS]
        ]
