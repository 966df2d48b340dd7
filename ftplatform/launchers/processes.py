"""Processes by facts the kernel keeps: a pid and the time it started (a pid alone is given to others later), and marks.

Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: int
    """Clock ticks since boot."""

    @property
    def alive(self) -> bool:
        """Still the same process, and not a zombie that waits to be reaped."""
        try:
            text = (_PROC / str(self.pid) / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return parse_stat(text) == self and _state(text) != "Z"


def parse_stat(text: str) -> Process:
    """From a line of ``/proc/<pid>/stat``: ``pid (name) state ... starttime`` with the start time in field 22."""
    fields = text.rpartition(")")[2].split()
    return Process(int(text.partition(" ")[0]), int(fields[19]))


def environment(process: Process) -> dict[str, str]:
    """What the process was started with; empty when it has ended or is somebody else's."""
    try:
        entries = (_PROC / str(process.pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs}


def runs(process: Process, argument: str) -> bool:
    """Whether ``argument`` stands on the process's command line."""
    try:
        return argument.encode() in (_PROC / str(process.pid) / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def state(process: Process) -> str:
    """The kernel's letter: R running, S sleeping, D waiting for a device, T stopped, Z dead and not yet reaped."""
    try:
        return _state((_PROC / str(process.pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def _state(text: str) -> str:
    return text.rpartition(")")[2].split()[0]


def marked(name: str, value: str) -> list[Process]:
    """Living processes that were started with ``name=value`` in their environment."""
    wanted = f"{name}={value}".encode()
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                process = parse_stat((folder / "stat").read_text())
                if process.alive:
                    found.append(process)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked, or is somebody else's
    return found


def send(process: Process, number: signal.Signals) -> None:
    """A signal, unless the process has ended."""
    if process.alive:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return
