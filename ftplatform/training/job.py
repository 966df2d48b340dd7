"""A training from spec to result: read, resume, train, save, prove."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.methods import find_method
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import START_SILENCE, PayloadIO
from ftplatform.store.shared import SharedTrees, linked
from ftplatform.training.activation_checkpointing import checkpoint_activations
from ftplatform.training.adapters import PISSA_SILENCE
from ftplatform.training.best import best_step, no_hope, score
from ftplatform.training.checkpoints import Checkpoints, Fenced
from ftplatform.training.distributed.preflight import PREFLIGHT_SILENCE, preflight
from ftplatform.training.figures import mean_utilisation, open_meter, peak_memory
from ftplatform.training.methods.base import Examples, TrainingMethod, Work, open_method
from ftplatform.training.profiler import StepProfile
from ftplatform.training.ranks import leader
from ftplatform.training.resuming import adapt_random_state, own_random_stream, read_records
from ftplatform.training.shards import RowOrder
from ftplatform.training.tracker import Trackers, open_trackers
from ftplatform.training.trainer import MethodTrainer, build_trainer
from ftplatform.training.uploads import Uploads
from ftplatform.training.votes import agreed, highest, mean_of_ranks
from ftplatform.training.watch import COMMIT_SILENCE, Watch

WORK = "work"
"""Folder beside the spec for what is local and passing: base, checkpoints before their commit, weights before
theirs.
"""
PROOF_SILENCE = 7200.0
"""Seconds the proof may take without a sign of life: 16 passes of a 70 B model on a few cores of the host."""
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
        with closing(Uploads(checkpoints.commit)) as uploads:
            return _train(spec, io, store, checkpoints, uploads, work)
    except Fenced as error:
        return PayloadResult(outcome="fenced", message=str(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _train(
    spec: TrainSpec, io: PayloadIO, store: ObjectStore, checkpoints: Checkpoints, uploads: Uploads, work: Path
) -> PayloadResult:
    begun = time.monotonic()
    tracker = open_trackers(spec.tracking, spec.key) if spec.tracking and io.rank == 0 else None
    io.progress("loading the base model and the shards")
    io.heartbeat(silent_for=START_SILENCE)
    if spec.processes > 1:
        io.heartbeat(silent_for=PREFLIGHT_SILENCE)
        preflight(spec, io.progress)
        io.heartbeat(silent_for=START_SILENCE)
    io.heartbeat(silent_for=COMMIT_SILENCE)
    shared = io.folder / WORK / f"rank{leader()}"
    store = SharedTrees(store, shared / "trees") if spec.processes > 1 else store
    base, restored = store.fetch_tree(spec.base_weights, work / "base"), 0
    if io.rank == leader():
        restored = checkpoints.restore(work / "resume", io.progress)
    resumed = highest(restored)
    if not agreed(restored if io.rank == leader() else resumed):
        raise RuntimeError("the machines found different newest checkpoints; a retry helps")
    if resumed and io.rank != leader():
        linked(shared / "resume", work / "resume")
    io.heartbeat(silent_for=COMMIT_SILENCE)
    records = read_records(work / "resume") if resumed else []
    if no_hope(records, spec.training.patience):
        # The attempt before had stopped early and was lost before it could say so.
        spec = spec.model_copy(update={"steps": resumed})

    def alive(message: str) -> None:
        io.heartbeat(silent_for=START_SILENCE)

    set_seed(spec.training.seed)
    method = open_method(Work(spec, store, base, work, alive))
    io.heartbeat(silent_for=PISSA_SILENCE if spec.lora.init_lora_weights == "pissa" else COMMIT_SILENCE)
    model = method.model()
    io.heartbeat(silent_for=COMMIT_SILENCE)
    if spec.gradient_checkpointing:
        checkpoint_activations(model)
    vocabulary = model.get_input_embeddings().num_embeddings
    splits = {
        split: method.read([store.path(digest) for digest in files], vocabulary) for split, files in spec.shards.items()
    }
    train, validation = splits["train"], splits.get("validation")
    if validation is not None and not method.weight(validation):
        validation = None
    if spec.training.evaluate_every and validation is None:
        raise InvalidConfig(
            f"training.evaluate_every {spec.training.evaluate_every} was asked for and there is no validation row: give the "
            "dataset a validation share (split.validation), or set evaluate_every to 0"
        )

    tokens_per_step = spec.training.batch_size * float(train.tokens.float().mean())
    watch = Watch(
        io, uploads, tracker, open_meter(spec, train, base), worst_loss=method.worst_loss(vocabulary),
        evaluate_every=spec.training.evaluate_every, patience=spec.training.patience,
        slow_steps=spec.strategy == "offload",
    )  # fmt: skip
    watch.listen()
    watch.records = records
    trainer = build_trainer(model, method, train, io.folder / WORK / "checkpoints", watch, io.progress)
    profile = StepProfile(spec.training.profile_steps, work / "profile")
    if spec.training.profile_steps and io.rank == 0:
        trainer.add_callback(profile)
    if validation is not None:
        watch.evaluate = lambda: _evaluate(trainer, method, validation)
    with trainer.accelerator.autocast():
        # The starting model has to answer in the precision of the steps.
        method.begin(model, splits)
    if not resumed:
        own_random_stream(spec.training.seed)
    elif said := adapt_random_state(work / "resume", trainer, spec.training.seed, resumed):
        io.progress(said)
    io.progress(f"training from step {resumed}" if resumed else "training", step=resumed, of=spec.steps)
    io.heartbeat(silent_for=START_SILENCE)
    entered = time.monotonic()
    trainer.train(resume_from_checkpoint=str(work / "resume") if resumed else None)
    trained = time.monotonic() - entered
    watch.settle()

    steps, last = trainer.state.global_step, watch.records[-10:]
    numbers = {
        "steps": float(steps),
        "tokens": float(_seen(train, train.tokens, spec, steps)),
        "supervised_tokens": float(_seen(train, train.labelled, spec, steps)),
        "final_loss": sum(one["loss"] for one in last) / len(last) if last else float("nan"),
        "tokens_per_second": (steps - resumed) * tokens_per_step / trained,
        "useful_seconds": sum(record["seconds"] for record in watch.records),
        "saving_seconds": watch.saving_seconds,
        **mean_utilisation(watch.records),
        "loss_spikes": sum(record.get("loss_spike", 0.0) for record in watch.records),
    }
    if watch.stopped:
        return _close(tracker, PayloadResult(
            outcome=watch.stopped[0], message=watch.stopped[1], resumed_from=resumed,
            artifacts=_metrics(store, watch.records) if io.rank == 0 and watch.stopped[0] == "diverged" else {},
            numbers=_finite(numbers | {"seconds": time.monotonic() - begun, "peak_memory_bytes": float(peak_memory())}),
        ))  # fmt: skip
    if steps != spec.steps and not watch.early:
        raise RuntimeError(f"the training ended after {steps} of {spec.steps} steps and no reason is known")

    if spec.probe:
        # The first steps warm up allocator and kernels.
        steady = sorted(record["seconds"] for record in watch.records[2:] or watch.records)
        numbers |= {
            "tokens_per_second": tokens_per_step / steady[len(steady) // 2],
            "peak_memory_bytes": float(peak_memory()),
        }
        return PayloadResult(outcome="done", message=f"{steps} steps measured", numbers=_finite(numbers))

    kept = steps
    if spec.training.keep == "best" and (best := best_step(watch.records)) not in (None, steps):
        io.heartbeat(silent_for=COMMIT_SILENCE)
        # Weights alone: the optimizer's states are twice their size.
        folder = replace(checkpoints, store=store).fetch(best, work / "best", without=("optimizer.pt",))
        kept = _take_back(trainer, method, folder, watch, best)
    artifacts: dict[str, str] = {}
    weights = work / "weights"
    with trainer.whole():
        if io.rank == 0:
            io.progress("saving the weights")
            io.heartbeat(silent_for=COMMIT_SILENCE)
            weights = method.save(trainer.accelerator.unwrap_model(trainer.model), weights)
    if io.rank == 0:
        numbers |= {name: value for name, value in watch.records[kept - 1].items() if name.startswith("eval_")}
        numbers |= {"kept_step": float(kept)}
        # What was trained is stored before the proof, which loads a model again and may be the end of this attempt.
        artifacts = {"weights": store.put_tree(weights), **_metrics(store, watch.records), **profile.artifacts(store)}
        io.progress("proving the weights")
        io.heartbeat(silent_for=PROOF_SILENCE)
        artifacts["fingerprint"] = store.put_json(method.prove(weights, train))
    message = f"{steps} steps, final loss {numbers['final_loss']:.4f}"
    message += f"; {watch.early}" if watch.early else ""
    message += f"; the weights are those of step {kept}, whose evaluation is the best" if kept != steps else ""
    return _close(tracker, PayloadResult(
        outcome="done", message=message, artifacts=artifacts, resumed_from=resumed,
        numbers=numbers | {"seconds": time.monotonic() - begun, "peak_memory_bytes": float(peak_memory())},
    ))  # fmt: skip


def _evaluate(trainer: MethodTrainer, method: TrainingMethod, examples: Examples) -> dict[str, float]:
    with trainer.compute_loss_context_manager():
        figures: dict[str, float] = method.evaluate(trainer.accelerator.unwrap_model(trainer.model), examples)
    return figures


def _take_back(trainer: MethodTrainer, method: TrainingMethod, folder: Path, watch: Watch, step: int) -> int:
    """Put the weights of the checkpoint of ``step`` into the live model, and prove it by the evaluation it had.

    Raises:
        RuntimeError: the model in memory evaluates otherwise than the model of that step did.
    """
    trainer._load_from_checkpoint(str(folder))
    then = score(watch.records[step - 1])
    now = score(mean_of_ranks(watch.evaluate())) if watch.evaluate else None
    # Another micro-batch or GPU than then moves the last bits; answers that are drawn differ by more, and prove nothing.
    drawn = find_method(method.spec.method).generates
    if then is None or now is None or (not drawn and abs(now - then) > 1e-2 * max(1.0, abs(then))):
        raise RuntimeError(
            f"the weights of step {step} were to be the result; they scored {then} then and {now} loaded"
        )
    return step


def _metrics(store: ObjectStore, records: list[dict[str, Any]]) -> dict[str, str]:
    return {"metrics": store.put_bytes("".join(json.dumps(record) + "\n" for record in records).encode())}


def _close(tracker: Trackers | None, result: PayloadResult) -> PayloadResult:
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
