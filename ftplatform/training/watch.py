"""What happens around the steps: signs of life, figures, commits, and every reason to stop. One Trainer callback.

Everything is decided at the end of a step, when weights, optimizer, schedule and random numbers belong together: a
checkpoint taken elsewhere (the Trainer's own SIGTERM handling saves before the optimizer's step) does not resume to the
same bits.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import signal
import statistics
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftplatform.core.payload import OutcomeName
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.checkpoints import Checkpoints, Fenced
from ftplatform.training.tracker import Tracker

METRICS_FILE = "metrics.jsonl"
COMMIT_SILENCE = 1800.0
"""Seconds a commit may take without a sign of life: a 7 B model's optimizer state to a slow object store."""
_WINDOW = 20
_TRAINERS_OWN = ("epoch", "num_input_tokens_seen", "train_tokens_per_second")


class Watch(TrainerCallback):
    def __init__(
        self,
        io: PayloadIO,
        checkpoints: Checkpoints,
        tracker: Tracker | None,
        *,
        tokens_per_step: float,
        worst_loss: float,
    ) -> None:
        self._io, self._checkpoints, self._tracker = io, checkpoints, tracker
        self._tokens, self._worst = tokens_per_step, worst_loss
        self.records: list[dict[str, float]] = []
        """A dict per step since step 1, of this attempt and of those it goes on from."""
        self.stopped: tuple[OutcomeName, str] | None = None
        """Why the training ended before its last step."""
        self._terminate = False
        self._begun = self._said = time.monotonic()

    def listen(self) -> None:
        """SIGTERM: finish the step, commit, end as ``preempted``."""
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._terminate = True

    def resume(self, folder: Path) -> None:
        """Take over the figures of the checkpoint in ``folder``."""
        self.records = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]

    # Called by the Trainer, in this order

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._begun = time.monotonic()

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._io.heartbeat()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._io.heartbeat()
        if _any_rank(self._terminate) and state.global_step < state.max_steps:
            self.stopped = (
                "preempted",
                f"terminated at step {state.global_step} of {state.max_steps}; a retry resumes there",
            )
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **rest: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        record = {
            "step": state.global_step,
            "loss": logs["loss"],
            "grad_norm": float(logs.get("grad_norm", math.nan)),
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": round(self._tokens / max(now - self._begun, 1e-9), 1),
            "memory_gb": round(peak_memory() / 1e9, 4),
        }
        record |= {name: value for name, value in logs.items() if name not in record and name not in _TRAINERS_OWN}
        self._begun = now
        trouble = self._trouble(record)
        if trouble:
            self.stopped = (
                "diverged",
                f"{trouble} at step {state.global_step}; the last good checkpoint stays, a retry does not help",
            )
            control.should_save, control.should_training_stop = False, True
            return
        self.records.append(record)
        if self._tracker:
            self._tracker.log(state.global_step, {name: value for name, value in record.items() if name != "step"})
        if now - self._said >= 1.0 or state.global_step in (1, state.max_steps):
            self._said = now
            self._io.progress(
                f"step {state.global_step} of {state.max_steps}: loss {record['loss']:.4f}",
                step=state.global_step,
                of=state.max_steps,
                loss=record["loss"],
                tokens_per_second=record["tokens_per_second"],
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        fenced: Fenced | None = None
        _barrier()
        if state.is_world_process_zero:
            (folder / METRICS_FILE).write_text("".join(json.dumps(record) + "\n" for record in self.records))
            self._io.heartbeat(silent_for=COMMIT_SILENCE)
            try:
                self._checkpoints.commit(folder, state.global_step)
            except Fenced as error:
                fenced = error
            shutil.rmtree(folder)
            self._io.heartbeat()
        if _any_rank(fenced is not None):
            self.stopped = ("fenced", str(fenced or "a newer attempt has begun"))
            control.should_training_stop = True
        self._begun = time.monotonic()

    def _trouble(self, record: dict[str, float]) -> str | None:
        """Not finite; or for twenty steps the median loss is above what the method calls sound."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(record[name]):
                return f"{name} became {record[name]}"
        recent = [one["loss"] for one in self.records[1 - _WINDOW :]] + [record["loss"]]
        if len(recent) == _WINDOW and (median := statistics.median(recent)) > self._worst:
            return f"the loss diverged (median {median:.2f} over {_WINDOW} steps, above {self._worst:.2f})"
        return None


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else the process's largest resident size."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _any_rank(flag: bool) -> bool:
    """Whether any rank says so, the same answer everywhere: ranks that disagree on stopping wait for each other for
    ever.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    votes = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return bool(votes.item())


def _barrier() -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
