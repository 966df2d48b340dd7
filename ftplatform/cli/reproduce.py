"""``ft reproduce``: a finished job's training once more, from its lockfile, and what came out differently."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ftplatform.cli.common import console, open_parts, show
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig, NotFound, PayloadFailed
from ftplatform.core.ids import LineKey
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.recipes.lockfile import LOCKFILE, Lock, drift, observe
from ftplatform.resources.jobs import job_doc
from ftplatform.resources.platform import Parts

ATTEMPTS = 3


def reproduce(job: Annotated[str, typer.Argument(help="ftjob-..., one that trained")]) -> None:
    """Train a job's weights again with everything its lockfile pins, as a new job, and report every difference.

    On the same machine and packages a CPU gives the same bytes. Ends with 1 when the weights differ. Neither evaluates nor deploys.
    """
    parts = open_parts()
    if parts.settings.executor != "local":
        raise InvalidConfig("ft reproduce trains on this machine: run it where FTPLATFORM_EXECUTOR is local")
    before = _lock_of(parts, job)
    line = LineKey.parse(f"{before.dataset}|{before.recipe}")
    _say_what_moved(parts, before, line)
    environment = observe(before.spec.method, parts.settings.gpu_image, parts.settings.payload_python)
    new = parts.catalog.jobs.submit(line, "reproduce", curated=before.data["curated"], state="running")
    console.print(f"job {new}: {line} as in {job}")
    spec = before.spec.model_copy(
        update={
            # A key of its own: the same key would find the finished payload and train nothing.
            "key": digest_json({"reproduces": before.spec.key, "job": new}),
            "store": parts.settings.store,
            "tracking": None,
        }
    )
    try:
        with parts.catalog.leases.hold(f"line:{line}", new, parts.settings.lease_seconds):
            made = _train(parts, spec, new)
    except BaseException as error:
        parts.catalog.jobs.set_state(new, "failed", str(error) or type(error).__name__)
        raise
    after = before.model_copy(
        update={"job": new, "environment": environment, "spec": spec, **_outcome(made)},
    )
    parts.store.put_doc(job_doc(new, LOCKFILE), after.model_dump(mode="json"))
    differences = drift(before, after)
    same = "weights" not in differences
    message = f"{'the same weights' if same else 'other weights'} as {job}, {len(differences)} field(s) drifted"
    parts.catalog.jobs.set_state(new, "reproduced" if same else "drifted", message)
    if differences:
        show("drift", ("field", "then", "now"), [(name, then, now) for name, (then, now) in differences.items()])
    console.print(f"job {new}: {message}")
    if not same:
        raise typer.Exit(1)


def _lock_of(parts: Parts, job: str) -> Lock:
    parts.catalog.jobs.get(job)
    document = parts.store.find_doc(job_doc(job, LOCKFILE))
    if document is None:
        raise NotFound(f"job {job} has no lockfile: it did not come to its weights, or is older than lockfiles")
    try:
        return Lock.model_validate(document)
    except ValidationError as error:
        raise InvalidConfig(f"the lockfile of {job} is of another version of the platform: {error}") from error


def _say_what_moved(parts: Parts, before: Lock, line: LineKey) -> None:
    """What a new job of the line would train on today; the reproduction keeps to the lockfile."""
    today = {
        "dataset version": (before.data["curated"], _today(lambda: parts.catalog.datasets.curated(line.dataset))),
        "base model": (before.base, _today(lambda: parts.catalog.bases.newest(before.base.split("@")[0]))),
    }
    rows = [(name, then, now) for name, (then, now) in today.items() if then != now]
    if rows:
        show("moved on since, and kept as it was", ("", "pinned", "today"), rows)


def _today(look: Callable[[], Any]) -> str:
    """A job outlives its dataset's name and its base model's."""
    try:
        return str(look())
    except NotFound:
        return "no longer registered"


def _train(parts: Parts, spec: TrainSpec, job: str) -> PayloadResult:
    for attempt in range(1, ATTEMPTS + 1):
        began = time.time()
        handle = parts.launcher.submit(spec)
        result = parts.launcher.wait(handle, _tell, lambda: parts.catalog.jobs.wants_cancel(job))
        parts.catalog.jobs.record_attempt(job, "training", spec.key, handle.attempt, began, result)
        again = result.outcome in ("failed", "preempted") and not parts.catalog.jobs.wants_cancel(job)
        if result.outcome == "done" or not again or attempt == ATTEMPTS:
            break
    if result.outcome != "done":
        raise PayloadFailed(f"the training ended {result.outcome}: {result.message}", retry_helps=again)
    return result


def _outcome(made: PayloadResult) -> dict[str, Any]:
    return {name: made.artifacts[name] for name in ("weights", "fingerprint")}


def _tell(progress: dict[str, Any]) -> None:
    if "of" not in progress:
        console.print(f"  {progress['message']}", markup=False)
