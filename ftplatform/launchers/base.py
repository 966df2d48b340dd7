"""What every launcher promises. Nothing here knows Dagster, torch or where the payload runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ftplatform.core.payload import PayloadResult, PayloadSpec


@dataclass(frozen=True, slots=True)
class Handle:
    """One attempt of one payload; whoever knows kind and key finds it again."""

    kind: str
    key: str
    attempt: int
    folder: Path
    """Where the attempt's files are (see ``core.payload``)."""


@dataclass(frozen=True, slots=True)
class Running:
    progress: dict[str, Any] = field(default_factory=dict)
    """The newest progress line: ``time``, ``message``, ``step`` and ``of`` where it counts; empty before the first."""


Status = Running | PayloadResult


class Launcher(Protocol):
    def submit(self, spec: PayloadSpec, attempt: int | None = None) -> Handle:
        """Start the payload, or find it: one that runs is never started a second time.

        With a number, that attempt: when it, or a later one, has begun already, that one is returned, ended or not, so
        asking twice starts once. Without, the next attempt, unless the last one is done and what it made is still in
        the store.
        """

    def status(self, handle: Handle) -> Status:
        """Running, or how it ended. A payload that died or hung without a result is ``failed``, with its last log
        lines.
        """

    def logs(self, handle: Handle, last: int | None = None) -> str:
        """Standard output and error, the ``last`` lines or all."""

    def cancel(self, handle: Handle, grace: float = 60.0) -> None:
        """SIGTERM, so that a training can commit a checkpoint; SIGKILL after ``grace`` seconds. Returns when nothing
        lives.
        """

    def wait(
        self,
        handle: Handle,
        on_progress: Callable[[dict[str, Any]], None],
        should_cancel: Callable[[], bool],
        poll: float = 1.0,
        grace: float = 60.0,
    ) -> PayloadResult:
        """Until it ends. An exception in here (an interrupted step) leaves the payload running, to be found by
        ``submit``.
        """


def wait_for(
    launcher: Launcher,
    handle: Handle,
    on_progress: Callable[[dict[str, Any]], None],
    should_cancel: Callable[[], bool],
    poll: float,
    grace: float,
) -> PayloadResult:
    """The wait that every launcher shares: ask each ``poll`` seconds, pass every new progress line on, cancel when told
    to.
    """
    seen: dict[str, Any] = {}
    while True:
        status = launcher.status(handle)
        if isinstance(status, PayloadResult):
            return status
        if status.progress and status.progress != seen:
            seen = status.progress
            on_progress(seen)
        if should_cancel():
            launcher.cancel(handle, grace)
            continue
        time.sleep(poll)
