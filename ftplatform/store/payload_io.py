"""The payload's side of its folder: progress, heartbeat and the one result (see ``core.payload`` for the files).

The heartbeat is touched by the code that makes progress and never by a thread of its own: a thread would go on beating
for a payload that hangs. Before a call that cannot beat (imports, loading a model, a library's own long loop) the
payload announces how long it may be silent, ``heartbeat(silent_for=600)``; the announcement is the file's content, the
last sign of life its modification time, and the launcher kills only after the longer of the announcement and its own
limit.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ftplatform.core.errors import DataRefused, FtError
from ftplatform.core.payload import (
    PAYLOAD_SPEC,
    PROGRESS_FILE,
    RESULT_FILE,
    OutcomeName,
    PayloadResult,
    PayloadSpec,
    heartbeat_file,
    stacks_file,
)
from ftplatform.store.base import ObjectStore
from ftplatform.store.open import open_store

ATTEMPT_FILE = "attempt.json"
"""Beside the spec, written by the launcher before the start: ``{"attempt": n}``, the payload's fencing token."""
START_SILENCE = 300.0
"""Seconds a payload may be silent from its start: imports and the first model load on a busy machine."""
BEAT_EVERY = 1.0
_NO_SPACE = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file size limit is reached",
    errno.EDQUOT: "the quota is used up",
}
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "cublas_status_alloc_failed")
"""CUDA, torch's CPU allocator, the kernel (also in the words of safetensors), cuBLAS."""
_WRITE_FAILED = ("inline_container.cc", "PytorchStreamWriter", "os error 28", "os error 27")
"""How torch.save and safetensors say that a write failed; neither raises an OSError."""


class Terminated(BaseException):
    """SIGTERM arrived where the payload has nothing to commit; a training listens itself once it has."""


class PayloadIO:
    """Writes into ``folder``. Under torchrun progress and result are rank 0's; the others write files of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rank = int(os.environ.get("RANK", "0"))
        self._beaten = float("-inf")
        self._silence = 0.0
        self.began_at = 0
        """The first step that was told: where this attempt went on."""
        self.reached: dict[str, float] = {}
        """``steps``: the newest step that was told; empty before the first."""

    @property
    def attempt(self) -> int:
        """The fencing token the launcher wrote beside the spec; a payload started by hand is attempt 1."""
        path = self.folder / ATTEMPT_FILE
        return int(json.loads(path.read_text())["attempt"]) if path.exists() else 1

    def progress(self, message: str, step: int | None = None, of: int | None = None, **numbers: float) -> None:
        """Append one line for people, ``{"time", "message", "step"?, "of"?, ...numbers}``; also a sign of life."""
        if step is not None:
            self.began_at = self.began_at if self.reached else step
            self.reached = {"steps": float(step)}
        if self.rank:
            return
        counted = {name: value for name, value in (("step", step), ("of", of)) if value is not None}
        line = json.dumps({"time": round(time.time(), 3), "message": message, **counted, **numbers}, ensure_ascii=False)
        with (self.folder / PROGRESS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        # What was announced still holds: the store's waiting speaks up in the middle of an announced silence.
        self.heartbeat(self._silence)

    def heartbeat(self, silent_for: float = 0.0) -> None:
        """A sign of life, cheap enough for every step; ``silent_for`` announces seconds without the next one.

        Every rank gives its own: the launcher goes by rank 0's and tells by the others' who holds it up.
        """
        now = time.monotonic()
        if silent_for == self._silence and now - self._beaten < BEAT_EVERY:
            return
        (self.folder / heartbeat_file(self.rank)).write_text(f"{silent_for:.0f}\n")
        self._beaten, self._silence = now, silent_for

    def finish(self, result: PayloadResult) -> None:
        """Write the result: temporary name, fsync, rename.

        Raises:
            RuntimeError: there is one already; a payload has one result.
        """
        if self.rank:
            if result.outcome in ("failed", "out_of_memory", "bad_data"):
                text = f"{result.outcome}: {result.message}\n"
                (self.folder / f"error-rank{self.rank}.txt").write_text(text, encoding="utf-8")
            return
        target = self.folder / RESULT_FILE
        if target.exists():
            raise RuntimeError(f"{target} exists already: a payload writes its result once")
        temporary = target.with_suffix(".json.tmp")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(result.model_dump_json(indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)


def fence_name(key: str) -> str:
    """The document ``{"token": n}`` that shuts out attempts of ``key`` below n; raised before attempt n starts."""
    return f"fences/{key}"


def run_payload(main: Callable[[PayloadSpec, PayloadIO, ObjectStore], PayloadResult]) -> int:
    """Run a payload whose spec path is the only argument; every ending becomes a result file.

    Returns the exit status: 0 where the payload ended as it meant to, 1 for ``failed``, ``out_of_memory`` and
    ``bad_data``, so that torchrun stops the other ranks. SIGUSR1 dumps the stacks of all threads into ``stacks_file``.
    """
    faulthandler.enable()
    signal.signal(signal.SIGTERM, _terminate)
    if len(sys.argv) != 2:
        print(f"usage: {Path(sys.argv[0]).name} spec.json; found {len(sys.argv) - 1} arguments", file=sys.stderr)
        return 2
    path = Path(sys.argv[1]).absolute()
    io = PayloadIO(path.parent)
    stacks = (io.folder / stacks_file(io.rank)).open("a")
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    io.heartbeat(silent_for=START_SILENCE)
    try:
        spec = PAYLOAD_SPEC.validate_json(path.read_bytes())
        cache = Path(os.environ.get("XDG_CACHE_HOME", path.parent)) / "objects"
        result = main(spec, io, open_store(spec.store, cache, waiting=io.progress))
    except BaseException as error:  # noqa: BLE001 - whatever it was, the launcher learns it from the result
        traceback.print_exc()
        result = PayloadResult(
            outcome=outcome_of(error), message=message_of(error), numbers=io.reached, resumed_from=io.began_at
        )
    sys.stdout.flush()
    io.finish(result)
    return 1 if result.outcome in ("failed", "out_of_memory", "bad_data") else 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated("terminated by SIGTERM; a retry goes on from the newest committed checkpoint, if there is one")


def outcome_of(error: BaseException) -> OutcomeName:
    """The outcome an exception stands for; memory is told by name, so that torch need not be imported."""
    if isinstance(error, Terminated):
        return "preempted"
    text = str(error).lower()
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or (isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in _NO_MEMORY)):
        return "out_of_memory"
    return "bad_data" if isinstance(error, DataRefused) else "failed"


def message_of(error: BaseException) -> str:
    """One readable sentence; platform errors speak for themselves, others get their type and where they came from."""
    if isinstance(error, (FtError, Terminated)):
        return str(error)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return f"{_NO_SPACE[error.errno]} ({error}); free some space, then a retry helps"
    if any(sign in str(error) for sign in _WRITE_FAILED):
        return f"a file could not be written, most likely because the disk is full ({error}); free some space, then a retry helps"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}; the log has the traceback"
