"""``python -m ftplatform.training spec.json``: a training, or the making of the starter base model."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import PayloadResult, PayloadSpec, StarterSpec, TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import PayloadIO, run_payload


def main(spec: PayloadSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    if isinstance(spec, TrainSpec):
        # peft and accelerate import both wherever they are installed, which costs seconds; few trainings use them.
        unused = {"deepspeed"} if spec.training.uses_bitsandbytes else {"deepspeed", "bitsandbytes"}
        sys.modules.update(dict.fromkeys(unused))  # type: ignore[arg-type]
        from ftplatform.training.sft import train

        return train(spec, io, store)
    if isinstance(spec, StarterSpec):
        return build(spec, io, store)
    raise InvalidConfig(f"ftplatform.training was given a spec of kind {spec.kind!r}: accepted are train and starter")


def build(spec: StarterSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    """Artifact ``weights``: the tree of an ordinary Hugging Face folder."""
    from ftplatform.training.starter import build_starter

    begun = said = time.monotonic()

    def say(step: int, steps: int, loss: float) -> None:
        nonlocal said
        io.heartbeat()
        if time.monotonic() - said >= 1.0 or step in (1, steps):
            said = time.monotonic()
            io.progress(f"starter model, step {step} of {steps}: loss {loss:.4f}", step=step, of=steps, loss=loss)

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
