"""Payloads as processes of this machine. They outlive whoever started them and are found again by their key.

<root>/<kind>-<16 characters of the key>/lock        held while an attempt is being started
<root>/<kind>-<16 characters of the key>/0001/       one folder per attempt: the payload's files, its log, its process
<root>/lock                                          held while an attempt's GPUs are being chosen
<root>/starts.jsonl                                  a line per started payload
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ftplatform.core.errors import Conflict, InvalidConfig
from ftplatform.core.payload import (
    HEARTBEAT_FILE,
    MODULES,
    RESULT_FILE,
    SPEC_FILE,
    OutcomeName,
    PayloadResult,
    PayloadSpec,
)
from ftplatform.launchers.base import Handle, Running, Status, wait_for
from ftplatform.launchers.devices import choose, visible_devices
from ftplatform.launchers.environment import MARK, clean_environment
from ftplatform.launchers.folder import (
    LOG_FILE,
    PROCESS_FILE,
    announced_silence,
    append_stacks,
    last_progress,
    leader,
    read_log,
    read_result,
    write_failure,
)
from ftplatform.launchers.hang import diagnose, signs_of
from ftplatform.launchers.memory_events import KILLED, oom_kills
from ftplatform.launchers.processes import Process, marked, runs, send
from ftplatform.launchers.torchrun import torchrun_command
from ftplatform.store import ObjectStore, open_store
from ftplatform.store.payload_io import ATTEMPT_FILE, START_SILENCE, fence_name

HEARTBEAT_TIMEOUT = 120.0
"""Seconds without a sign of life, when the payload has not announced a longer silence."""
_END_SECONDS = 15.0
"""What torchrun may take to end after the result is there."""
# The child writes down who it is before anything else can know, while it holds the lock as its standard input: a
# submitter that is killed right after the start leaves no unknown process behind. ``exec`` keeps pid and start time and
# lets the lock go.
_SHIM = (
    f'read -r stat </proc/$$/stat; echo "$stat" >{PROCESS_FILE}.tmp; mv {PROCESS_FILE}.tmp {PROCESS_FILE}; '
    'exec "$@" </dev/null'
)


class LocalLauncher:
    """``python`` is an interpreter with the ``train`` extra, default the running one.

    ``command`` replaces the command line of a payload, and ``devices`` the machine's GPUs, for tests.
    """

    def __init__(
        self,
        root: Path,
        python: str | None = None,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        *,
        kill_grace: float = 10.0,
        command: Callable[[PayloadSpec, Path], list[str]] | None = None,
        devices: Callable[[], list[str]] = visible_devices,
    ) -> None:
        if not Path("/proc/self/stat").exists():
            raise InvalidConfig("the local launcher tells processes apart by /proc, which this system lacks: use Linux")
        self._root = root.absolute()
        self._python = python or sys.executable
        self._timeout, self._kill_grace = heartbeat_timeout, kill_grace
        self._command, self._devices = command or self._default_command, devices
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._beats: dict[Path, tuple[float, float]] = {}

    # The five operations

    def submit(self, spec: PayloadSpec, attempt: int | None = None) -> Handle:
        """See ``Launcher``.

        Raises:
            Conflict: the first 16 characters of the key belong to another payload.
        """
        place = self._root / f"{spec.kind}-{spec.key[:16]}"
        place.mkdir(parents=True, exist_ok=True)
        with self._locked(place) as lock:
            latest = self._latest(place, spec)
            store = open_store(spec.store, self._root / "cache" / "objects")
            if latest:
                status = self.status(latest)
                if isinstance(status, Running):
                    return latest
                if attempt is not None and latest.attempt >= attempt:
                    return latest
                if attempt is None and status.outcome == "done" and all(map(store.has, status.artifacts.values())):
                    return latest
            number = max(attempt or 1, latest.attempt + 1 if latest else 1, _token(store, spec) + 1)
            return self._start(spec, place, number, store, lock)

    def status(self, handle: Handle) -> Status:
        self._reap()
        result, living = read_result(handle), self._living(handle)
        outcome: OutcomeName = "failed"
        if result:
            if living and time.time() - (handle.folder / RESULT_FILE).stat().st_mtime < _END_SECONDS:
                return Running(last_progress(handle.folder))
            self._kill(handle)
            return result
        if living and not self._hangs(handle):
            return Running(last_progress(handle.folder))
        if living:
            silence, diagnosis = self._limit(handle.folder), self._examine(handle)
            self._stop(handle, self._kill_grace)
            why = f"no sign of life for {silence:.0f} s, {diagnosis}; it was killed"
        else:
            self._kill(handle)
            why = "the process ended without a result (killed from outside, or a crash)"
            if kills := _killed_for_memory(handle):
                outcome = "out_of_memory"
                why = (
                    f"the process ended without a result, and {KILLED} {kills} of this machine's or container's "
                    "processes for memory meanwhile (exit 137, OOMKilled)"
                )
        # It may have ended by itself between our two looks. That our own SIGTERM ended a hanging one is no news.
        result = read_result(handle)
        if result and result.outcome != "preempted":
            return result
        failure = write_failure(handle, why, outcome)
        # Rank 0 may be stuck in a collective while another rank runs out of memory; that one's report says so.
        return read_result(handle) or failure

    def logs(self, handle: Handle, last: int | None = None) -> str:
        return read_log(handle.folder, last)

    def cancel(self, handle: Handle, grace: float = 60.0) -> None:
        self._stop(handle, grace)

    def wait(
        self,
        handle: Handle,
        on_progress: Callable[[dict[str, Any]], None],
        should_cancel: Callable[[], bool],
        poll: float = 1.0,
        grace: float = 60.0,
    ) -> PayloadResult:
        return wait_for(self, handle, on_progress, should_cancel, poll, grace)

    def running(self) -> list[Handle]:
        """Every attempt of this root that lives, whoever started it."""
        found = []
        for path in sorted(self._root.glob(f"*/[0-9]*/{SPEC_FILE}")):
            stored = json.loads(path.read_text())
            handle = Handle(stored["kind"], stored["key"], int(path.parent.name), path.parent)
            if self._living(handle):
                found.append(handle)
        return found

    # Starting

    def _default_command(self, spec: PayloadSpec, path: Path) -> list[str]:
        if spec.kind == "train":
            return torchrun_command(spec, self._python, path)
        return [self._python, "-m", MODULES[spec.kind], str(path)]

    def _start(self, spec: PayloadSpec, place: Path, number: int, store: ObjectStore, lock: IO[bytes]) -> Handle:
        for old in place.glob("*/work"):
            shutil.rmtree(old)
        if spec.kind == "train":
            store.put_doc(fence_name(spec.key), {"token": number})
        folder = place / f"{number:04d}"
        folder.mkdir()
        (folder / SPEC_FILE).write_text(spec.model_dump_json(indent=1))
        (folder / HEARTBEAT_FILE).write_text(f"{START_SILENCE:.0f}\n")
        with (self._root / "starts.jsonl").open("a") as starts:
            line = {"time": time.time(), "kind": spec.kind, "key": spec.key, "attempt": number}
            starts.write(json.dumps(line) + "\n")
        # Until its process is there an attempt does not count as living, and the next one could choose the same GPUs.
        with self._locked(self._root):
            devices = self._free_devices(spec)
            known = {"attempt": number, "oom_kills": oom_kills(), "devices": devices}
            (folder / ATTEMPT_FILE).write_text(json.dumps(known))
            with (folder / LOG_FILE).open("ab") as log:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", _SHIM, "sh", *self._command(spec, folder / SPEC_FILE)],
                    cwd=folder,
                    env=clean_environment(os.environ, spec, folder, self._root / "cache", devices),
                    stdin=lock,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._children[child.pid] = child
            while not (folder / PROCESS_FILE).exists() and child.poll() is None:
                time.sleep(0.01)
        return Handle(spec.kind, spec.key, number, folder)

    def _free_devices(self, spec: PayloadSpec) -> list[str]:
        """The GPUs that an attempt of ``spec`` gets and holds for as long as it lives."""
        devices = self._devices()
        taken = [name for living in self.running() for name in _devices_of(living)] if devices else []
        return choose(devices, taken, spec.processes if spec.kind == "train" else 1)

    @contextmanager
    def _locked(self, place: Path) -> Iterator[IO[bytes]]:
        # Let go by closing only: an explicit unlock would take it from the child that is still writing down who it is.
        with (place / "lock").open("ab+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock

    def _latest(self, place: Path, spec: PayloadSpec) -> Handle | None:
        folders = sorted(path for path in place.iterdir() if path.name.isdigit())
        if not folders:
            return None
        stored = folders[-1] / SPEC_FILE
        if stored.exists() and (key := json.loads(stored.read_text())["key"]) != spec.key:
            raise Conflict(f"{place} belongs to key {key}, not to {spec.key}; delete the folder", retry_helps=False)
        return Handle(spec.kind, spec.key, int(folders[-1].name), folders[-1])

    # Watching

    def _living(self, handle: Handle) -> bool:
        process = leader(handle)
        return process is not None and process.alive

    def _hangs(self, handle: Handle) -> bool:
        """No new heartbeat for longer than allowed, by a clock that stands still while the machine sleeps."""
        beat = (handle.folder / HEARTBEAT_FILE).stat().st_mtime
        now = time.monotonic()
        seen, since = self._beats.get(handle.folder, (beat - 1, now))
        if beat != seen:
            self._beats[handle.folder] = (beat, now)
            return False
        return now - since > self._limit(handle.folder)

    def _examine(self, handle: Handle) -> str:
        """Ask every rank for its stacks and say which one holds the others up."""
        workers = self._workers(handle)
        signs = signs_of(handle.folder, workers)
        for process in workers:
            send(process, signal.SIGUSR1)
            # A stopped process takes the signal when it is woken, before its next instruction.
            send(process, signal.SIGCONT)
        time.sleep(1.0)
        append_stacks(handle.folder)
        return diagnose(handle.folder, signs)

    def _limit(self, folder: Path) -> float:
        """Seconds of silence allowed now: the payload's announcement or our own limit, the longer one."""
        return max(self._timeout, announced_silence(folder))

    # Ending

    def _workers(self, handle: Handle) -> list[Process]:
        """The processes to speak to: torchrun itself would give its workers 30 s, whatever the grace, and has no stacks
        to show.
        """
        first, everyone = leader(handle), self._left(handle)
        return [process for process in everyone if process != first or not runs(process, "torch.distributed.run")]

    def _stop(self, handle: Handle, grace: float) -> None:
        for process in self._workers(handle):
            send(process, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and self._left(handle):
            self._reap()
            time.sleep(0.1)
        self._kill(handle)

    def _kill(self, handle: Handle) -> None:
        """SIGKILL to all that is left, until nothing is; a process in uninterruptible sleep can outlast that."""
        for _ in range(20):
            left = self._left(handle)
            if not left:
                return
            for process in left:
                send(process, signal.SIGKILL)
            deadline = time.monotonic() + 0.5
            while self._left(handle) and time.monotonic() < deadline:
                self._reap()
                time.sleep(0.05)
        raise Conflict(
            f"processes {[one.pid for one in left]} of {handle.folder} do not die by SIGKILL; look at the machine"
        )

    def _left(self, handle: Handle) -> list[Process]:
        """The attempt's living processes. A process on its way out loses its environment, and with it the mark, before it
        is dead: of the first one, whose pid is written down, we can tell.
        """
        first, found = leader(handle), marked(MARK, str(handle.folder))
        return [*found, first] if first and first.alive and first not in found else found

    def _reap(self) -> None:
        # Several threads may wait for a payload each (a search): a copy, because another may start one meanwhile.
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(pid, None)


def _killed_for_memory(handle: Handle) -> int:
    """Kills for memory since the attempt began; 0 where the kernel does not tell, and for one that never came to start."""
    path = handle.folder / ATTEMPT_FILE
    before, now = json.loads(path.read_text()).get("oom_kills") if path.exists() else None, oom_kills()
    return now - before if before is not None and now is not None else 0


def _devices_of(handle: Handle) -> list[str]:
    return list(json.loads((handle.folder / ATTEMPT_FILE).read_text()).get("devices", ()))


def _token(store: ObjectStore, spec: PayloadSpec) -> int:
    return int((store.find_doc(fence_name(spec.key)) or {"token": 0})["token"]) if spec.kind == "train" else 0
