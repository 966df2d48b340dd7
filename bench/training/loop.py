"""Tokens per second of the payload against a bare loop, TRL and LLaMA-Factory: one process, one thread, rounds alternating.

Every contender trains the same rows from the same weights; their losses must agree at every step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).parents[1] / "results" / "training_loop.md"
TARGETS = {"bare PyTorch loop": 1.4, "TRL SFTTrainer": 2.0, "LLaMA-Factory": 1.4}
AGREE = 1e-4
"""Losses may differ by rounding, which steps carry on; a row more or less would show at once."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training loop", description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="of a round, the first one not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-factory", type=Path, help="folder of an unpacked LLaMA-Factory 0.9.5 wheel")
    options = parser.parse_args(arguments)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", DISABLE_VERSION_CHECK="1")
    import torch

    from bench.training.contenders import CONTENDERS, Job, ordered
    from bench.training.workload import BATCH, LENGTH, packed_rows, put_job

    torch.set_num_threads(1)
    ways = dict(CONTENDERS)
    if options.llama_factory:
        sys.path.append(str(options.llama_factory))
    else:
        del ways["LLaMA-Factory"]
        print("LLaMA-Factory is left out: give --llama-factory the folder of an unpacked wheel")
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    efforts: dict[str, list[float]] = {name: [] for name in ways}
    rows = packed_rows(options.steps * BATCH)
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        spec, store = put_job(Path(folder), rows, options.steps)
        job = Job(Path(folder), spec, store, ordered(rows, options.steps))
        worst = 0.0
        for number in range(options.rounds):
            reference: list[float] = []
            for name, way in ways.items():
                course = way(job)
                reference = reference or course.losses
                apart = max(abs(a - b) / b for a, b in zip(course.losses, reference, strict=True))
                if apart > AGREE:
                    sys.exit(f"{name} does not train the same: losses {course.losses}, the bare loop's {reference}")
                worst = max(worst, apart)
                tokens = (options.steps - 1) * BATCH * LENGTH
                speeds[name].append(tokens / (course.moments[-1] - course.moments[0]))
                efforts[name].append(tokens / (course.cpu[-1] - course.cpu[0]))
                print(
                    f"round {number + 1}: {name}: {speeds[name][-1]:,.0f} tokens/s, {efforts[name][-1]:,.0f} by CPU",
                    flush=True,
                )
            loads.append(os.getloadavg()[0])
    documents = float((rows.position_ids == 0).sum()) / len(rows)
    report = _report(speeds, efforts, options, documents, rows.supervised / rows.input_ids.numel(), worst, loads)
    print(report)
    OUT.write_text(report)


def _report(
    speeds: dict[str, list[float]],
    efforts: dict[str, list[float]],
    options: argparse.Namespace,
    documents: float,
    labelled: float,
    worst: float,
    loads: list[float],
) -> str:
    from bench.training.workload import SAID

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl", "accelerate"))
    lines = [
        "# Training: tokens per second",
        "",
        f"{SAID}. {documents:.1f} documents a row, {labelled:.0%} of the positions learned; no document sees another, in any "
        f"way. `python -m bench.training loop`: {options.rounds} alternating rounds of {options.steps} steps in one process, the "
        f"first step of each not counted; medians, all rounds in brackets; ratios are medians of each round's. Processor time "
        f"varies less on a busy machine: load average {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores. Losses "
        f"agree at every step to {worst:.0e} (relative). {versions}; LLaMA-Factory 0.9.5 on the same. ftplatform is the whole "
        f"payload, with its figures and signs of life.",
        "",
        "| way | tokens/s | tokens per CPU second | ftplatform is, by time | by CPU time | asked for |",
        "|---|---|---|---|---|---|",
    ]
    for name in speeds:
        asked = f"{TARGETS[name]:.1f}x" if name in TARGETS else ""
        cells = [_medians(speeds[name]), _medians(efforts[name]), _ratio(speeds, name), _ratio(efforts, name), asked]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _medians(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({', '.join(f'{value:,.0f}' for value in values)})"


def _ratio(values: dict[str, list[float]], name: str) -> str:
    # Of the same round, so that what else the machine does weighs on both.
    return f"{statistics.median(a / b for a, b in zip(values['ftplatform'], values[name], strict=True)):.2f}x"
