"""Running a payload for an asset: progress to the log, the line's lease kept alive, failures retried as new attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import PayloadResult, PayloadSpec
from ftplatform.resources.platform import Parts

MAX_ATTEMPTS = 3
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
        if time.monotonic() - last_beat > parts.settings.lease_seconds / 4:
            keep_alive()
            last_beat = time.monotonic()
        return parts.catalog.jobs.wants_cancel(job)

    for attempt in range(1, MAX_ATTEMPTS + 1):
        began = time.time()
        handle = parts.launcher.submit(spec)
        context.log.info(f"{stage}: attempt {handle.attempt} in {handle.folder}")
        outcome = parts.launcher.wait(handle, lambda line: context.log.info(f"{stage}: {_sentence(line)}"), cancelled)
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


def _sentence(line: dict[str, Any]) -> str:
    counted = f" {line['step']}/{line['of']}" if "of" in line else ""
    numbers = ", ".join(
        f"{k} {v:.4g}"
        for k, v in line.items()
        if k not in ("time", "message", "step", "of") and isinstance(v, (int, float))
    )
    return f"{line['message']}{counted}{f' ({numbers})' if numbers else ''}"
