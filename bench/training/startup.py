"""From the start of a payload's process to the end of its first step: seconds, processor seconds, and where they go."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

OUT = Path(__file__).parents[1] / "results" / "training_startup.md"
TARGET = 8.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training startup", description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args(arguments)
    runs = [_once() for _ in range(options.times)]
    report = _report(runs)
    print(report)
    OUT.write_text(report)


def _once() -> dict[str, float]:
    from bench.training.workload import BATCH, packed_rows, put_job
    from ftplatform.launchers import LocalLauncher

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec, _ = put_job(folder, packed_rows(BATCH), 1)
        local = LocalLauncher(folder / "payloads")
        cpu, begun = _cpu(), time.time()
        handle = local.submit(spec)
        result = local.wait(handle, lambda progress: None, lambda: False, poll=0.05)
        assert result.outcome == "done", result.message
        lines = [json.loads(line) for line in (handle.folder / "progress.jsonl").read_text().splitlines()]
        moments = {"imports": lines[0]["time"] - begun}
        training = next(line["time"] for line in lines if line["message"] == "training")
        first = next(line["time"] for line in lines if line.get("step") == 1)
        moments |= {"base, shards, trainer": training - lines[0]["time"], "first step": first - training}
        return {**moments, "together": first - begun, "cpu": _cpu() - cpu, "load": os.getloadavg()[0]}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _report(runs: list[dict[str, float]]) -> str:
    lines = [
        "# Training: start",
        "",
        f"`python -m bench.training startup`, {len(runs)} starts by the local launcher, medians and all in brackets; asked for is "
        f"less than {TARGET:.0f} s to the first step on an idle machine. Processor seconds are of the whole payload of one step, "
        "to its saved and proven weights.",
        "",
        "| | seconds |",
        "|---|---|",
    ]
    for name in runs[0]:
        values = [run[name] for run in runs]
        said = {"together": "**spawn to first step**", "cpu": "processor seconds", "load": "load average"}.get(
            name, name
        )
        lines.append(f"| {said} | {statistics.median(values):.1f} ({', '.join(f'{value:.1f}' for value in values)}) |")
    return "\n".join([*lines, ""])
