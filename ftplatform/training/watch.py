"""What happens around the steps: signs of life, figures, evaluations, checkpoints, and every reason to stop. One Trainer
callback.

Everything is decided at the end of a step, when weights, optimizer, schedule and random numbers belong together: a
checkpoint taken elsewhere (the Trainer's own SIGTERM handling saves before the optimizer's step) does not resume to the
same bits.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftplatform.core.payload import OutcomeName
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.best import best_step, no_hope
from ftplatform.training.checkpoints import Fenced
from ftplatform.training.figures import Meter
from ftplatform.training.progress_line import TOLD, VALIDATED, TimeLeft, sentence
from ftplatform.training.resuming import collect_random_states, write_records
from ftplatform.training.tracker import Trackers
from ftplatform.training.uploads import Uploads
from ftplatform.training.votes import highest, mean_of_ranks, meet

COMMIT_SILENCE = 1800.0
"""Seconds a commit may take without a sign of life: a 7 B model's optimizer state to a slow object store."""
SLOW_STEP = 1800.0
"""Seconds a step may take that no earlier one tells of: the first compiles kernels and opens CUDA and NCCL; with optimizer
states in the host, AdamW walks over all of them there."""
_STEP_TIMES = 10.0
"""As many times the slowest step so far may one take. Only a sign of life within a step would tell more, and with one
micro-batch there is none: what hangs is killed later by this, and what is slow is not killed."""
_WINDOW = 20
_SPIKE = 3.0
"""A loss this many times the median of the last twenty is said aloud; the training goes on."""
_NOTHING, _TERMINATED, _FENCED, _LOST = range(4)
"""What a rank knows at the end of a step; the gravest of all ranks' counts."""
_TRAINERS_OWN = ("epoch", "num_input_tokens_seen", "train_tokens_per_second")


class Watch(TrainerCallback):
    def __init__(
        self,
        io: PayloadIO,
        uploads: Uploads,
        tracker: Trackers | None,
        meter: Meter,
        *,
        worst_loss: float,
        evaluate_every: int = 0,
        patience: int = 0,
        slow_steps: bool = False,
    ) -> None:
        self._io, self._uploads, self._tracker = io, uploads, tracker
        self._worst = worst_loss
        self._every, self._patience = evaluate_every, patience
        self._meter, self._left = meter, TimeLeft()
        self.evaluate: Callable[[], dict[str, float]] | None = None
        """Figures of the validation rows, the same numbers drawn before and after; None without such rows."""
        self.records: list[dict[str, float]] = []
        """A dict per step since step 1, of this attempt and of those it goes on from."""
        self.stopped: tuple[OutcomeName, str] | None = None
        """Why the training ended before its last step, otherwise than by its own rules."""
        self.early = ""
        """Why the training ended before its last step by the recipe's rules."""
        self._terminate = False
        self.saving_seconds = 0.0
        """That this attempt's steps waited for checkpoints: written to the local disk, and for the one before to arrive."""
        self._begun = self._said = self._logged = time.monotonic()
        self._expected = SLOW_STEP if slow_steps else 0.0
        self._slowest = 0.0

    def listen(self) -> None:
        """SIGTERM: finish the step, commit, end as ``preempted``."""
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._terminate = True

    def settle(self) -> None:
        """After the last step: wait until the last checkpoint has arrived.

        Raises:
            Exception: what kept it from arriving.
        """
        self._io.heartbeat(silent_for=COMMIT_SILENCE)
        self._uploads.wait()
        self._heed(highest(self._news()))

    # Called by the Trainer, in this order

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._begun = time.monotonic()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._alive()

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._alive()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._alive()
        news = highest(self._news())
        self._heed(news)
        if news == _FENCED:
            control.should_save, control.should_training_stop = False, True
        elif news == _TERMINATED and state.global_step < state.max_steps:
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
            **self._meter.figures(state.global_step, max(now - self._begun, 1e-9), logs),
        }
        record |= {name: value for name, value in logs.items() if name not in record and name not in _TRAINERS_OWN}
        record["seconds"] = round(now - self._begun, 6)
        # Here the host has waited for the GPU; at the end of a step it may be far ahead.
        self._slowest = max(self._slowest, record["seconds"])
        self._begun = now
        trouble = self._trouble(record)
        if trouble:
            self.stopped = (
                "diverged",
                f"{trouble} at step {state.global_step}; the last good checkpoint stays, a retry does not help",
            )
            control.should_save, control.should_training_stop = False, True
            return
        self._mention_spike(record)
        if record["loss"] > self._worst and not self.stopped:
            # What runs away for the steps that it takes to be sure would push every good checkpoint out.
            control.should_save = False
        record |= self._evaluated(state)
        self.records.append(record)
        self._judge(state, control)
        if self._tracker:
            self._tracker.log(state.global_step, {name: value for name, value in record.items() if name != "step"})
        left = self._left.seconds(state.max_steps - state.global_step, record["seconds"])
        # An evaluation is always told: a search decides by it whether this training goes on.
        if now - self._said >= 1.0 or state.global_step in (1, state.max_steps) or record.keys() & {*VALIDATED}:
            self._said = now
            self._io.progress(
                sentence(record, state.max_steps, left),
                step=state.global_step,
                of=state.max_steps,
                eta_seconds=left,
                **{name: record[name] for name in (*TOLD, *VALIDATED) if name in record},
            )
        self._logged = time.monotonic()
        if control.should_save:
            # Before ``on_save`` the Trainer gathers and writes: minutes for the optimizer states of a large model.
            self._io.heartbeat(silent_for=COMMIT_SILENCE)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        collect_random_states(folder)
        meet()
        if state.is_world_process_zero:
            write_records(folder, self.records)
            # Waits for the checkpoint before this one, if it is still on its way.
            self._io.heartbeat(silent_for=COMMIT_SILENCE)
            self._uploads.put(folder, state.global_step, best_step(self.records))
            self._io.heartbeat()
        self._begun = time.monotonic()
        self.saving_seconds += self._begun - self._logged

    def _alive(self) -> None:
        # The launcher's own limit holds where it is the longer one.
        self._io.heartbeat(silent_for=max(self._expected, _STEP_TIMES * self._slowest) if self._slowest else SLOW_STEP)

    # Decisions

    def _news(self) -> int:
        error = self._uploads.error
        if error is not None:
            return _FENCED if isinstance(error, Fenced) else _LOST
        return _TERMINATED if self._terminate else _NOTHING

    def _heed(self, news: int) -> None:
        """A checkpoint that did not arrive ends the training: going on would put more and more work at risk."""
        error = self._uploads.error
        if news == _FENCED:
            self.stopped = ("fenced", str(error or "a newer attempt has begun"))
        elif news == _LOST:
            raise error or RuntimeError("another process could not commit its checkpoint; its report says why")

    def _evaluated(self, state: TrainerState) -> dict[str, float]:
        due = state.global_step == state.max_steps or (self._every and state.global_step % self._every == 0)
        if self.evaluate is None or not due:
            return {}
        self._io.heartbeat(silent_for=COMMIT_SILENCE)
        figures = mean_of_ranks(self.evaluate())
        self._io.heartbeat()
        self._begun = time.monotonic()
        return figures

    def _judge(self, state: TrainerState, control: TrainerControl) -> None:
        """Keep the best; stop where nothing better is to be expected. By figures that are the same on every rank."""
        best = best_step(self.records)
        if self._every and best == state.global_step:
            control.should_save = True
        if no_hope(self.records, self._patience) and state.global_step < state.max_steps:
            self.early = (
                f"stopped early at step {state.global_step} of {state.max_steps}: {self._patience} evaluations in a row "
                f"were no better than that of step {best}"
            )
            control.should_save = control.should_training_stop = True

    def _mention_spike(self, record: dict[str, float]) -> None:
        recent = [one["loss"] for one in self.records[-_WINDOW:]]
        # A method without a worst loss has one that may well cross zero.
        if (
            math.isfinite(self._worst)
            and len(recent) == _WINDOW
            and record["loss"] > _SPIKE * abs(median := statistics.median(recent)) > 0
        ):
            record["loss_spike"] = 1.0
            self._io.progress(
                f"loss spike at step {record['step']:.0f}: {record['loss']:.4f}, the median of the {_WINDOW} steps before "
                f"is {median:.4f}"
            )

    def _trouble(self, record: dict[str, float]) -> str | None:
        """Not finite; or for twenty steps the median loss is above what the method calls sound."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(record[name]):
                return f"{name} became {record[name]}"
        recent = [one["loss"] for one in self.records[1 - _WINDOW :]] + [record["loss"]]
        if len(recent) == _WINDOW and (median := statistics.median(recent)) > self._worst:
            return f"the loss diverged (median {median:.2f} over {_WINDOW} steps, above {self._worst:.2f})"
        return None
