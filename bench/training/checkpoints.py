"""What checkpoints cost a training: the time in which its steps wait for them, as a share of the steps' own time."""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from pathlib import Path

OUT = Path(__file__).parents[1] / "results" / "training_checkpoints.md"
TARGET = 0.02


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training checkpoints", description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints; 50 is the recipes' default")
    options = parser.parse_args(arguments)
    report = _report(options, {kind: _once(kind, options.steps, options.every) for kind in ("lora", "full")})
    print(report)
    OUT.write_text(report)


def _once(kind: str, steps: int, every: int) -> dict[str, float]:
    from bench.training.workload import BATCH, packed_rows, put_job
    from ftplatform.store.base import ObjectStore
    from ftplatform.store.payload_io import PayloadIO
    from ftplatform.training.job import train

    class Timed(ObjectStore):
        storing = 0.0

        def put_tree(self, folder: Path) -> str:
            begun = time.monotonic()
            try:
                return super().put_tree(folder)
            finally:
                Timed.storing += time.monotonic() - begun

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec, store = put_job(folder, packed_rows(8 * BATCH), steps)
        training = spec.training.model_copy(update={"checkpoint_every": every})
        (folder / "attempt").mkdir()
        before = signal.getsignal(signal.SIGTERM)
        result = train(
            spec.model_copy(update={"training": training, "parameterisation": kind}),
            PayloadIO(folder / "attempt"),
            Timed(store._blobs),
        )
        signal.signal(signal.SIGTERM, before)
        assert result.outcome == "done", result.message
        return {**result.numbers, "storing": Timed.storing}


def _report(options: argparse.Namespace, runs: dict[str, dict[str, float]]) -> str:
    from bench.training.workload import SAID

    lines = [
        "# Training: checkpoints",
        "",
        f"`python -m bench.training checkpoints`: {options.steps} steps, a checkpoint every {options.every}. {SAID}; local store. "
        f"Asked for is less than {TARGET:.0%} of the steps' time. Waiting is what the training's thread spent on checkpoints "
        "(writing to the local disk, and waiting for the one before); storing went on behind it, the final weights included.",
        "",
        "| | step time, s | waiting per checkpoint, s | waiting / step time | storing behind, s |",
        "|---|---|---|---|---|",
    ]
    for kind, run in runs.items():
        count = max(1, options.steps // options.every)
        share = run["saving_seconds"] / run["useful_seconds"]
        lines.append(
            f"| {kind} | {run['useful_seconds']:.1f} | {run['saving_seconds'] / count:.3f} | **{share:.2%}** | {run['storing']:.3f} |"
        )
    return "\n".join([*lines, ""])
