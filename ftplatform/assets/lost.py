"""Steps whose pod or process is taken away: they go on in another, and what was lost with them is on record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ftplatform.assets.attempts import MAX_ATTEMPTS
from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import PayloadResult, PayloadSpec
from ftplatform.launchers.base import Handle
from ftplatform.launchers.placement import LOST_STEPS, LOST_WAIT
from ftplatform.resources.platform import Parts


@contextmanager
def surviving_eviction(context: dg.AssetExecutionContext, parts: Parts) -> Iterator[None]:
    """On a cluster, ask Dagster for another pod when this one is told to end and nobody asked for the end of its run.

    Elsewhere a signal to a step comes from a person, and stays what it is.
    """
    try:
        yield
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as stop:
        if parts.settings.executor == "local" or _ending(context):
            raise
        context.log.warning("this pod was told to end, and nobody ended the run: the step goes on in another pod")
        raise dg.RetryRequested(max_retries=LOST_STEPS, seconds_to_wait=LOST_WAIT) from stop


def _ending(context: dg.AssetExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is None or run.is_finished or run.status is dg.DagsterRunStatus.CANCELING


def begin_attempt(parts: Parts, spec: PayloadSpec, handle: Handle, *, stage: str, job: str, committed: int) -> int:
    """Remember that this attempt has begun, with ``committed`` as its newest checkpoint, until ``end_attempt``.

    An attempt before it that never ended was lost with the step that waited for it, and becomes a row of the catalog here.
    Returns how many in a row were lost so without bringing the training further.

    Raises:
        PayloadFailed: that many that another would be lost too.
    """
    name, before = _name(spec), parts.store.find_doc(_name(spec))
    if before and before["attempt"] >= handle.attempt:
        return int(before["lost"])
    lost = 0
    if before:
        lost = int(before["lost"]) + 1 if committed <= before["committed"] else 0
        ended = PayloadResult(
            outcome="failed",
            message="lost together with the step that waited for it: its pod, machine or process was taken away",
            numbers={"resumed_from": float(before["committed"]), "steps": float(committed)},
        )
        parts.catalog.jobs.record_attempt(job, stage, spec.key, before["attempt"], before["began"], ended)
    if lost >= MAX_ATTEMPTS:
        parts.store.delete_doc(name)
        parts.launcher.cancel(handle)
        raise PayloadFailed(
            f"{stage} was lost {lost} times in a row with its pod or process and committed nothing newer than step "
            f"{committed}: look at the pods' ends (memory, evictions), then run the step again",
            retry_helps=True,
        )
    parts.store.put_doc(name, {"attempt": handle.attempt, "began": time.time(), "committed": committed, "lost": lost})
    return lost


def end_attempt(parts: Parts, spec: PayloadSpec) -> None:
    """This attempt has ended and is on record."""
    parts.store.delete_doc(_name(spec))


def _name(spec: PayloadSpec) -> str:
    return f"attempts/{spec.key}"
