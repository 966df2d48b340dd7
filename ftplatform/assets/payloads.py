"""Running a payload for an asset: progress to the log, the line's lease kept alive, failures retried as new attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dagster as dg
from sqlalchemy.exc import OperationalError

from ftplatform.core.errors import Conflict, PayloadFailed
from ftplatform.core.payload import PayloadResult, PayloadSpec
from ftplatform.resources.platform import Parts

MAX_ATTEMPTS = 3
LOG_SECONDS = 5.0
RETRIED = ("failed", "preempted")


def run_payload(
    context: dg.AssetExecutionContext,
    parts: Parts,
    spec: PayloadSpec,
    *,
    stage: str,
    job: str,
    keep_alive: Callable[[], Any] = lambda: None,
) -> PayloadResult:
    """Start the payload, or join the one running under the spec's key, and wait for its outcome ``done``.

    A payload that dies or is preempted is started again from its newest committed checkpoint, up to ``MAX_ATTEMPTS`` in all.

    Raises:
        PayloadFailed: the job was cancelled, or the last attempt ended otherwise than ``done``.
    """
    last_beat = 0.0

    def cancelled() -> bool:
        nonlocal last_beat
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

    for attempt in range(1, MAX_ATTEMPTS + 1):
        began = time.time()
        handle = parts.launcher.submit(spec)
        context.log.info(f"{stage}: attempt {handle.attempt} in {handle.folder}")
        try:
            outcome = parts.launcher.wait(handle, _teller(context, stage), cancelled)
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt, Conflict):
            # Terminated by a person, or the line belongs to another run by now: nobody would wait for this payload.
            parts.launcher.cancel(handle)
            raise
        parts.catalog.jobs.record_attempt(job, stage, spec.key, handle.attempt, began, outcome)
        if outcome.outcome == "done":
            context.log.info(f"{stage}: {outcome.message}")
            return outcome
        if parts.catalog.jobs.wants_cancel(job):
            raise PayloadFailed(f"{stage} was cancelled: {outcome.message}", retry_helps=False)
        if outcome.outcome not in RETRIED or attempt == MAX_ATTEMPTS:
            break
        context.log.warning(
            f"{stage}: attempt {handle.attempt} ended {outcome.outcome}: {outcome.message}; trying again"
        )
    raise PayloadFailed(f"{stage} ended {outcome.outcome}: {outcome.message}", retry_helps=outcome.outcome in RETRIED)


def _teller(context: dg.AssetExecutionContext, stage: str) -> Callable[[dict[str, Any]], None]:
    """Logs a progress line every few seconds: each is a row in Dagster's event log, for ever."""
    told = float("-inf")

    def tell(line: dict[str, Any]) -> None:
        nonlocal told
        counting = "of" in line and line["step"] < line["of"]
        if not counting or time.monotonic() - told >= LOG_SECONDS:
            told = time.monotonic()
            context.log.info(f"{stage}: {_sentence(line)}")

    return tell


def _sentence(line: dict[str, Any]) -> str:
    numbers = ", ".join(
        f"{k} {v:.4g}"
        for k, v in line.items()
        if k not in ("time", "message", "step", "of", "loss") and isinstance(v, (int, float))
    )
    return f"{line['message']}{f' ({numbers})' if numbers else ''}"
