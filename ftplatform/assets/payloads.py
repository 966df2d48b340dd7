"""Running a payload for an asset: progress to the log, the line's lease kept alive, failures retried as new attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dagster as dg
from sqlalchemy.exc import OperationalError

from ftplatform.assets.attempts import HOST_MEMORY, RETRIED, difference, judged, next_attempt, over_all, resume_ladder
from ftplatform.assets.lost import begin_attempt, end_attempt
from ftplatform.core.errors import Conflict, PayloadFailed
from ftplatform.core.payload import PayloadResult, PayloadSpec
from ftplatform.launchers.base import Handle
from ftplatform.resources.platform import Parts
from ftplatform.store import ObjectStore
from ftplatform.store.patience import patiently

LOG_SECONDS = (5.0, 60.0)
"""Between two progress lines of a training: at its start or where it is short, and at most; about two hundred in all."""

OWN_END = 15.0
"""Seconds of a pod's grace that the payload does not get: for the record of its end and the answer to Dagster."""


class Diverged(PayloadFailed):
    """A training whose loss left sound ground; ``result`` has its figures and, as artifact ``metrics``, its curve."""

    def __init__(self, message: str, result: PayloadResult) -> None:
        super().__init__(message, retry_helps=False)
        self.result = result


class Stopped(PayloadFailed):
    """A payload that its own caller had no more use for."""


def run_payload(
    context: dg.AssetExecutionContext,
    parts: Parts,
    spec: PayloadSpec,
    *,
    stage: str,
    job: str,
    keep_alive: Callable[[], Any] = lambda: None,
    stop: Callable[[Handle], bool] = lambda handle: False,
) -> PayloadResult:
    """Start the payload, or join the one running under the spec's key, and wait for its outcome ``done``.

    A payload that dies, is preempted or lacks memory is started again from its newest committed checkpoint, as ``next_attempt``
    decides. Every attempt is a row of the catalog; the result's numbers hold ``over_all`` of them.
    ``stop`` is asked every second about the running attempt; where it says so the payload is cancelled.

    Raises:
        PayloadFailed: the job was cancelled, or the last attempt ended otherwise than ``done``.
        Diverged: the loss did.
        Stopped: ``stop`` said so.
    """
    last_beat, stopped = 0.0, False

    def cancelled() -> bool:
        nonlocal last_beat, stopped
        if stop(handle):
            stopped = True
            return True
        try:
            if time.monotonic() - last_beat > parts.settings.lease_seconds / 4:
                keep_alive()
                last_beat = time.monotonic()
            return parts.catalog.jobs.wants_cancel(job)
        except OperationalError as error:
            # The payload does not need the catalog; only a database away for longer than the lease endangers it.
            if last_beat and time.monotonic() - last_beat > parts.settings.lease_seconds:
                raise
            context.log.warning(f"{stage}: the catalog is away for the moment ({error.orig}); the payload goes on")
            return False

    def record(handle: Handle, began: float, ended: PayloadResult) -> PayloadResult:
        ended = ended.model_copy(update={"numbers": ended.numbers | {"resumed_from": float(ended.resumed_from)}})
        patiently(
            lambda: parts.catalog.jobs.record_attempt(job, stage, spec.key, handle.attempt, began, ended),
            context.log.warning,
            what="the catalog",
            away=lambda error: isinstance(error, OperationalError),
        )
        patiently(lambda: end_attempt(parts, spec), context.log.warning)
        return ended

    # The pod has so long to end, this process included.
    grace = max(5.0, parts.hardware.kubernetes.grace_seconds - OWN_END)
    spec = resume_ladder(spec, attempts_of(parts, job, spec.key))
    fruitless = 0
    while True:
        committed, began = _committed(parts.store, spec.key), time.time()
        handle = parts.launcher.submit(spec)
        fruitless = max(fruitless, begin_attempt(parts, spec, handle, stage=stage, job=job, committed=committed))
        context.log.info(f"{stage}: attempt {handle.attempt} in {handle.folder}")
        try:
            outcome = judged(spec, parts.launcher.wait(handle, _teller(context, stage), cancelled, grace=grace))
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt, Conflict):
            # Terminated by a person, or with its pod, or the line belongs to another run by now: nobody would wait for it.
            parts.launcher.cancel(handle, grace)
            ended = parts.launcher.status(handle)
            if isinstance(ended, PayloadResult):
                record(handle, began, ended)
            raise
        if patiently(lambda: _committed(parts.store, spec.key), context.log.warning) > committed:  # noqa: B023
            fruitless = 0
        elif outcome.outcome != "out_of_memory":
            # The ladder has an end of its own.
            fruitless += 1
        following = next_attempt(spec, outcome, fruitless)
        changes = difference(spec, following) if following else ""
        told = outcome.model_copy(update={"message": f"{outcome.message}; {changes}" if changes else outcome.message})
        told = record(handle, began, told)
        if outcome.outcome == "done":
            context.log.info(f"{stage}: {outcome.message}")
            numbers = told.numbers | over_all(attempts_of(parts, job, spec.key))
            return outcome.model_copy(update={"numbers": numbers})
        if stopped:
            raise Stopped(f"{stage} was stopped: {outcome.message}")
        if parts.catalog.jobs.wants_cancel(job):
            raise PayloadFailed(f"{stage} was cancelled: {outcome.message}", retry_helps=False)
        if following is None:
            break
        context.log.warning(f"{stage}: attempt {handle.attempt} ended {outcome.outcome}: {told.message}; trying again")
        spec = following
    message = f"{stage} ended {outcome.outcome}: {outcome.message}"
    if outcome.outcome == "diverged":
        context.log.error(message)
        raise Diverged(message, outcome)
    if outcome.outcome == "out_of_memory" and spec.kind == "train":
        message += (
            "; one sequence at a time, with its activations computed again, does not fit either: choose a larger GPU, a shorter "
            "training.max_length, or a parameterisation with fewer trained weights"
        )
    raise PayloadFailed(message, retry_helps=outcome.outcome in RETRIED and HOST_MEMORY not in outcome.message)


def attempts_of(parts: Parts, job: str, payload: str) -> list[dict[str, Any]]:
    """The job's attempts of one payload, in order; one that was waited for twice counts once."""
    rows = {row["attempt"]: row for row in parts.catalog.jobs.attempts(job) if row["payload"] == payload}
    return [rows[number] for number in sorted(rows)]


def _committed(store: ObjectStore, key: str) -> int:
    """Step of the newest committed checkpoint; 0 without one."""
    names = store.list_docs(f"checkpoints/{key}")
    return int(names[-1].rpartition("-")[2]) if names else 0


def _teller(context: dg.AssetExecutionContext, stage: str) -> Callable[[dict[str, Any]], None]:
    """Logs a progress line every few seconds: each is a row in Dagster's event log, for ever."""
    told = float("-inf")

    def tell(line: dict[str, Any]) -> None:
        nonlocal told
        counting = "of" in line and line["step"] < line["of"]
        pause = min(max(LOG_SECONDS[0], line.get("eta_seconds", 0.0) / 200), LOG_SECONDS[1])
        if not counting or time.monotonic() - told >= pause:
            told = time.monotonic()
            context.log.info(f"{stage}: {line['message']}")

    return tell
