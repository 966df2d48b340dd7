"""A training from spec to result: read, resume, train, save, prove."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch
from transformers import set_seed

from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import START_SILENCE, PayloadIO
from ftplatform.training.checkpoints import Checkpoints, Fenced
from ftplatform.training.methods.base import Examples, Work, open_method
from ftplatform.training.shards import RowOrder
from ftplatform.training.tracker import Tracker
from ftplatform.training.trainer import build_trainer
from ftplatform.training.watch import COMMIT_SILENCE, Watch, peak_memory

WORK = "work"
"""Folder beside the spec for what is local and passing: base, checkpoints before their commit, weights before
theirs.
"""
_MLFLOW_STATUS = {"done": "FINISHED", "preempted": "RUNNING"}


def train(spec: TrainSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    """Train as ``spec`` says; artifacts ``weights`` (tree), ``metrics`` and ``fingerprint`` (objects).

    Raises:
        DataRefused: a shard that cannot be trained on.
        InvalidConfig: something asked for did not engage.
        CorruptObject, NotFound: base or shards are not in the store as named.
    """
    torch.set_num_threads(spec.threads)
    work = io.folder / WORK / f"rank{io.rank}"
    shutil.rmtree(work, ignore_errors=True)
    checkpoints = Checkpoints(store, spec.key, io.attempt, spec.training.keep_checkpoints)
    try:
        checkpoints.check_fence()
        return _train(spec, io, store, checkpoints, work)
    except Fenced as error:
        return PayloadResult(outcome="fenced", message=str(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _train(spec: TrainSpec, io: PayloadIO, store: ObjectStore, checkpoints: Checkpoints, work: Path) -> PayloadResult:
    begun = time.monotonic()
    io.progress("loading the base model and the shards")
    io.heartbeat(silent_for=START_SILENCE)
    base = store.fetch_tree(spec.base_weights, work / "base")

    def alive(message: str) -> None:
        io.heartbeat(silent_for=START_SILENCE)

    set_seed(spec.training.seed)
    method = open_method(Work(spec, store, base, work, alive))
    model = method.model()
    vocabulary = model.get_input_embeddings().num_embeddings
    splits = {
        split: method.read([store.path(digest) for digest in files], vocabulary) for split, files in spec.shards.items()
    }
    train = splits["train"]

    tracker = Tracker(spec.tracking, spec.key) if spec.tracking and io.rank == 0 else None
    tokens_per_step = spec.training.batch_size * float(train.tokens.float().mean())
    worst = method.worst_loss(vocabulary)
    watch = Watch(io, checkpoints, tracker, tokens_per_step=tokens_per_step, worst_loss=worst)
    watch.listen()
    trainer = build_trainer(model, method, train, io.folder / WORK / "checkpoints", watch)
    with trainer.compute_loss_context_manager():
        method.begin(model, splits)
    resumed = checkpoints.restore(work / "resume", io.progress)
    if resumed:
        watch.resume(work / "resume")
    io.progress(f"training from step {resumed}" if resumed else "training", step=resumed, of=spec.steps)
    io.heartbeat(silent_for=START_SILENCE)
    entered = time.monotonic()
    trainer.train(resume_from_checkpoint=str(work / "resume") if resumed else None)
    trained = time.monotonic() - entered

    last = watch.records[-10:]
    done = trainer.state.global_step - resumed
    numbers = {
        "steps": float(trainer.state.global_step),
        "tokens": float(_seen(train, train.tokens, spec, trainer.state.global_step)),
        "supervised_tokens": float(_seen(train, train.labelled, spec, trainer.state.global_step)),
        "final_loss": sum(one["loss"] for one in last) / len(last) if last else float("nan"),
        "tokens_per_second": done * tokens_per_step / trained,
    }
    if watch.stopped:
        return _close(tracker, PayloadResult(
            outcome=watch.stopped[0], message=watch.stopped[1], resumed_from=resumed,
            numbers=_finite(numbers | {"seconds": time.monotonic() - begun, "peak_memory_bytes": float(peak_memory())}),
        ))  # fmt: skip
    if trainer.state.global_step != spec.steps:
        raise RuntimeError(
            f"the training ended after {trainer.state.global_step} of {spec.steps} steps and no reason is known"
        )

    artifacts: dict[str, str] = {}
    trained_model = trainer.accelerator.unwrap_model(trainer.model)
    evaluated: dict[str, float] = {}
    if "validation" in splits and method.weight(splits["validation"]):
        io.heartbeat(silent_for=COMMIT_SILENCE)
        with trainer.compute_loss_context_manager():
            evaluated = method.evaluate(trained_model, splits["validation"])
    if io.rank == 0:
        io.progress("saving the weights")
        io.heartbeat(silent_for=COMMIT_SILENCE)
        watch.records[-1] |= evaluated
        numbers |= evaluated
        weights = method.save(trained_model, work / "weights")
        proof = method.prove(weights, train)
        artifacts = {
            "weights": store.put_tree(weights),
            "metrics": store.put_bytes("".join(json.dumps(record) + "\n" for record in watch.records).encode()),
            "fingerprint": store.put_json(proof),
        }
    message = f"{spec.steps} steps, final loss {numbers['final_loss']:.4f}"
    return _close(tracker, PayloadResult(
        outcome="done", message=message, artifacts=artifacts, resumed_from=resumed,
        numbers=numbers | {"seconds": time.monotonic() - begun, "peak_memory_bytes": float(peak_memory())},
    ))  # fmt: skip


def _close(tracker: Tracker | None, result: PayloadResult) -> PayloadResult:
    """End the tracker's run; figures it could not take are said in the message and change no outcome."""
    problem = tracker.close(_MLFLOW_STATUS.get(result.outcome, "FAILED")) if tracker else None
    return result.model_copy(update={"message": f"{result.message}; {problem}"}) if problem else result


def _seen(examples: Examples, per_unit: torch.Tensor, spec: TrainSpec, steps: int) -> int:
    """Sum of ``per_unit`` over the units of ``steps`` steps."""
    order = RowOrder(len(examples), spec.training.batch_size, spec.training.seed)
    return sum(int(per_unit[order.of_step(step)].sum()) for step in range(steps))


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    """JSON has no NaN; a number that does not exist is left out."""
    return {name: value for name, value in numbers.items() if value == value and abs(value) != float("inf")}
