"""``python -m ftplatform.training spec.json``: a training, or the making of the starter base model."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from ftplatform.core.durations import in_words
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import PayloadResult, PayloadSpec, StarterSpec, TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import PayloadIO, run_payload
from ftplatform.training.light_imports import hidden, unused_packages
from ftplatform.training.progress_line import TimeLeft


def main(spec: PayloadSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    if isinstance(spec, TrainSpec):
        with hidden(unused_packages(spec)):
            from ftplatform.training.job import train

        return train(spec, io, store)
    if isinstance(spec, StarterSpec):
        return build(spec, io, store)
    raise InvalidConfig(f"ftplatform.training was given a spec of kind {spec.kind!r}: accepted are train and starter")


def build(spec: StarterSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    """Artifact ``weights``: the tree of an ordinary Hugging Face folder."""
    from ftplatform.training.starter import build_starter

    begun = said = time.monotonic()
    left = TimeLeft()

    def say(step: int, steps: int, loss: float) -> None:
        nonlocal said
        io.heartbeat()
        eta = left.seconds(steps - step, time.monotonic() - begun)
        if time.monotonic() - said >= 1.0 or step in (1, steps):
            said = time.monotonic()
            time_left = f", about {in_words(eta)} left" if step < steps else ""
            message = f"starter model, step {step} of {steps}: loss {loss:.4f}{time_left}"
            io.progress(message, step=step, of=steps, loss=loss, eta_seconds=eta)

    with tempfile.TemporaryDirectory(prefix="starter-", dir=io.folder) as folder:
        made = build_starter(Path(folder), seed=spec.seed, steps=spec.steps, threads=spec.threads, progress=say)
        weights = store.put_tree(Path(folder))
    return PayloadResult(
        outcome="done",
        message=f"starter model of {made['parameters']:,} parameters in {made['steps']} steps, loss {made['loss']:.3f}",
        artifacts={"weights": weights},
        numbers={
            "seconds": time.monotonic() - begun,
            "steps": float(made["steps"]),
            "parameters": float(made["parameters"]),
            "final_loss": float(made["loss"]),
        },
    )


if __name__ == "__main__":
    sys.exit(run_payload(main))
