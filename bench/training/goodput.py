"""Goodput: the share of the wall clock that went into steps that count, while the payload is killed again and again.

A real payload under the local launcher, kill -9 of all its processes every so many seconds, and the next attempt at once, as
the platform's retry starts it. A step counts where a committed checkpoint holds it: the start of every attempt, what was done
again after a kill or would have to be after the last, and the time nobody ran are lost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "results" / "training_goodput.md"
TARGET = 0.88
ENOUGH = 1_000_000
"""Steps that no run of minutes reaches."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training goodput", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument(
        "--kill-every", type=float, default=120.0, help="seconds from the start of an attempt to its end"
    )
    parser.add_argument("--checkpoint-every", type=int, default=10, help="steps")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = _run(Path(folder), options)
    report = _report(found, options)
    print(report)
    OUT.write_text(report)


def _run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from bench.training.workload import packed_rows, put_job
    from ftplatform.launchers import LocalLauncher, Running
    from ftplatform.launchers.environment import MARK
    from ftplatform.launchers.processes import marked, send

    spec, store = put_job(folder, packed_rows(256), ENOUGH)
    training = spec.training.model_copy(update={"checkpoint_every": options.checkpoint_every})
    spec = spec.model_copy(update={"training": training})
    local = LocalLauncher(folder / "payloads")
    begun = time.monotonic()
    # Moments at which each attempt had reached a step, by the payload's own progress file.
    attempts: list[list[tuple[float, int]]] = []
    submitted: list[float] = []
    while time.monotonic() - begun < options.seconds:
        submitted.append(time.time())
        handle = local.submit(spec)
        until = min(time.monotonic() + options.kill_every, begun + options.seconds)
        while time.monotonic() < until:
            status = local.status(handle)
            assert isinstance(status, Running), status
            time.sleep(0.2)
        for process in marked(MARK, str(handle.folder)):
            send(process, signal.SIGKILL)
        # A kill of its process shows as a failure that a retry helps against; the next submission is the next attempt.
        local.wait(handle, lambda progress: None, lambda: False, poll=0.1)
        lines = [json.loads(line) for line in (handle.folder / "progress.jsonl").read_text().splitlines()]
        attempts.append([(line["time"], line["step"]) for line in lines if "step" in line])
    wall = time.monotonic() - begun
    committed = max((int(name[-8:]) for name in store.list_docs(f"checkpoints/{spec.key}")), default=0)
    # Up to where an attempt's steps were kept: where the next one began.
    kept = [*(moments[0][1] for moments in attempts[1:]), committed]
    useful = sum(_useful(moments, until) for moments, until in zip(attempts, kept, strict=True))
    return {
        "wall": wall, "kills": len(attempts), "committed": committed, "useful": useful, "goodput": useful / wall,
        "begun": [moments[0][0] - at for moments, at in zip(attempts, submitted, strict=True)],
        "lost": sum(moments[-1][1] - until for moments, until in zip(attempts, kept, strict=True)),
        "load": os.getloadavg()[1],
    }  # fmt: skip


def _useful(moments: list[tuple[float, int]], until: int) -> float:
    """Seconds of an attempt up to step ``until``; progress comes every few steps, and those in between share the time."""
    return sum(
        (later - earlier) * min(1.0, max(0, until - a) / (b - a))
        for (earlier, a), (later, b) in pairwise(moments)
        if b > a
    )


def _report(found: dict[str, Any], options: argparse.Namespace) -> str:
    from bench.training.workload import SAID

    return "\n".join(
        [
            "# Training: goodput under kills",
            "",
            f"`python -m bench.training goodput --seconds {options.seconds:.0f} --kill-every {options.kill_every:.0f} "
            f"--checkpoint-every {options.checkpoint_every}`. {SAID}; a real payload by the local launcher, kill -9 of all its "
            "processes, the next attempt at once. Goodput is the time of the steps that are in a committed checkpoint over the "
            f"wall clock; asked for is {TARGET} at a kill every 120 s over 600 s.",
            "",
            "| wall, s | kills | steps kept | steps lost | from submission to training, s | goodput | load average |",
            "|---|---|---|---|---|---|---|",
            f"| {found['wall']:.0f} | {found['kills']} | {found['committed']} | {found['lost']} | "
            f"{', '.join(f'{seconds:.1f}' for seconds in found['begun'])} | **{found['goodput']:.3f}** | {found['load']:.1f} |",
            "",
        ]
    )
