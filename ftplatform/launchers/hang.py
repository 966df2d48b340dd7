"""Which rank of a silent payload holds the others up, and where it stands.

Every rank of a training meets the others in each step, so one that stops makes all of them silent within a step. The
signs that tell them apart, strongest first: a process that the kernel says is stopped or waits for a device; a stack
outside of the collective operations in which the others wait; the oldest sign of life.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftplatform.core.payload import heartbeat_file, stacks_file
from ftplatform.launchers.processes import Process, environment, state

_STATES = {"T": "stopped", "t": "stopped by a debugger", "D": "waiting for a device or a file system"}
_FRAME = re.compile(r'File "(?P<path>.+)", line (?P<line>\d+) in (?P<name>.+)')
_THREAD = re.compile(r"^(Current thread|Thread) ", re.MULTILINE)
_WAITING = ("distributed_c10d", "_engine_run_backward")
"""Where a rank waits for the others: a collective operation, or the backward pass in which DDP averages gradients."""


@dataclass(frozen=True, slots=True)
class RankSign:
    rank: int
    pid: int
    state: str
    """The kernel's letter."""
    silent: float
    """Seconds since its last sign of life."""


def signs_of(folder: Path, processes: Sequence[Process]) -> list[RankSign]:
    """What is known of every rank whose process is among ``processes``; taken before anything is sent to them."""
    found: dict[int, RankSign] = {}
    for process in processes:
        rank = int(environment(process).get("RANK", "0"))
        beat = folder / heartbeat_file(rank)
        if beat.exists():
            silent = time.time() - beat.stat().st_mtime
            sign = RankSign(rank, process.pid, state(process), silent)
            # A rank's own children (a compiler, a data worker) carry its number too; the first of them is the rank.
            found[rank] = min(found.get(rank, sign), sign, key=lambda one: one.pid)
    return [found[rank] for rank in sorted(found)]


def diagnose(folder: Path, signs: Sequence[RankSign]) -> str:
    """One sentence on who hung and where; read the stacks first (``payload_io`` writes them on SIGUSR1)."""
    if not signs:
        return "no process of it was left to ask"
    places = {sign.rank: innermost(folder / stacks_file(sign.rank)) for sign in signs}

    def suspicion(sign: RankSign) -> tuple[bool, bool, float]:
        waits = any(mark in (places[sign.rank] or "") for mark in _WAITING)
        return sign.state in _STATES, not waits, sign.silent

    first = max(signs, key=suspicion)
    said = [_sentence(sign, places[sign.rank]) for sign in (first, *(one for one in signs if one != first))]
    return f"held up by {said[0]}" + (f"; the others: {'; '.join(said[1:])}" if said[1:] else "")


def innermost(path: Path) -> str | None:
    """``file.py:12 in function`` of the newest dump's main thread, and the frame of ours it was called from."""
    if not path.exists():
        return None
    # faulthandler writes the threads one after the other, the main thread last.
    main = _THREAD.split(path.read_text(errors="replace"))[-1]
    frames = [
        (match["path"], f"{Path(match['path']).name}:{match['line']} in {match['name']}")
        for match in _FRAME.finditer(main)
    ]
    if not frames:
        return None
    ours = next((text for where, text in frames if "/ftplatform/" in where), None)
    return frames[0][1] if ours in (None, frames[0][1]) else f"{frames[0][1]}, called from {ours}"


def _sentence(sign: RankSign, place: str | None) -> str:
    state = _STATES.get(sign.state, "")
    where = f"at {place}" if place else "without a stack to show"
    return (
        f"rank {sign.rank} (process {sign.pid}, {f'{state}, ' if state else ''}silent for {sign.silent:.0f} s, {where})"
    )
