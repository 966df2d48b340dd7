"""A set of long-running processes that start together and end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from ftplatform.core.errors import FtError

STOP_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    command: Sequence[str]
    ready: str | None
    """Address that answers once the service is up; None where there is none."""


class Processes:
    """Each service in a session of its own with a log file; leaving the block ends them all."""

    def __init__(self, services: Sequence[Service], env: Mapping[str, str], logs: Path, cwd: Path) -> None:
        self._services, self._env, self._logs, self._cwd = services, env, logs, cwd
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for service in self._services:
                with self._log(service.name).open("ab") as log:
                    self._running[service.name] = subprocess.Popen(
                        service.command,
                        env=dict(self._env),
                        cwd=self._cwd,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        # A background shell hands down an ignored SIGINT, and Dagster maps SIGTERM to it: nothing would stop it.
                        preexec_fn=_default_interrupt,
                    )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, seconds: float = 180.0) -> None:
        """Return when every service answers.

        Raises:
            FtError: one ended, or does not answer in time; the message has the end of its log.
        """
        deadline = time.monotonic() + seconds
        waiting = {service.name: service.ready for service in self._services if service.ready}
        while waiting:
            self.check()
            for name, url in list(waiting.items()):
                if _answers(url):
                    del waiting[name]
            if time.monotonic() > deadline:
                name = next(iter(waiting))
                raise FtError(f"{name} did not answer at {waiting[name]} within {seconds:.0f} s:\n{self._tail(name)}")
            time.sleep(0.3)

    def check(self) -> None:
        """Raises FtError when a service has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise FtError(f"{name} ended with status {process.returncode}:\n{self._tail(name)}")

    def stop(self) -> None:
        """SIGTERM to every group, SIGKILL to what is left after ``STOP_SECONDS``; impatience cannot leave one behind."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in self._running.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        # A server's own children can outlive it; the group is theirs too.
        for process in self._running.values():
            _signal(process, signal.SIGKILL)
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _tail(self, name: str) -> str:
        text = self._log(name).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-15:])


def free_port(wanted: int) -> int:
    """``wanted`` when nothing listens there, else a port the system picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise FtError("no free port on 127.0.0.1", retry_helps=True)


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False
