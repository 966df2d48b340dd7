"""What follows an attempt that did not make it: the next one's spec, or the end. Decided from what is recorded alone.

A payload that lost its memory goes on with a smaller micro-batch and, at one sequence, with activation checkpointing:
each step of that ladder computes the same sums over the same rows, so the effective batch and the loss curve are those
of the plan. The key of the spec stays, and with it the checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ftplatform.core.payload import PayloadResult, PayloadSpec, TrainSpec
from ftplatform.launchers.memory_events import KILLED

MAX_ATTEMPTS = 3
"""Attempts in a row that may end without a newer committed checkpoint than the one they began with."""
MAX_HOST_KILLS = 2
"""Attempts in a row that the kernel may kill for the host's memory: the first may have had bad neighbours."""
RETRIED = ("failed", "preempted")
HOST_MEMORY = "the host's memory ran out, not the GPU's"


def next_attempt(spec: PayloadSpec, outcome: PayloadResult, fruitless: int) -> PayloadSpec | None:
    """The spec to go on with after ``outcome`` of ``spec``; None when a further attempt would not help.

    ``fruitless`` counts the attempts in a row, this one included, that died or were preempted without bringing the
    training any further. One that did is never held against a job: a spot machine may be taken away all day.
    """
    if outcome.outcome == "out_of_memory" and isinstance(spec, TrainSpec):
        # A probe of less would be recorded as a measurement of what was asked.
        return None if spec.probe else smaller(spec)
    allowed = MAX_HOST_KILLS if HOST_MEMORY in outcome.message else MAX_ATTEMPTS
    return spec if outcome.outcome in RETRIED and fruitless < allowed else None


def judged(spec: PayloadSpec, outcome: PayloadResult) -> PayloadResult:
    """``outcome``, or ``failed`` for a training on GPUs that the kernel killed for the host's memory.

    Half a micro-batch saves memory on the GPU: on the host lie weights that are loaded, optimizer states with offload, and
    checkpoints. On a CPU both are one memory, and the ladder helps.
    """
    on_gpu = isinstance(spec, TrainSpec) and spec.peak_tflops is not None
    if not on_gpu or outcome.outcome != "out_of_memory" or KILLED not in outcome.message:
        return outcome
    message = (
        f"{HOST_MEMORY}, so a smaller micro-batch does not help: raise the pod's memory limit (kubernetes.memory_gb of its "
        f"hardware), or choose fsdp2, zero3 or an adapter; a second such kill ends the job ({outcome.message})"
    )
    return outcome.model_copy(update={"outcome": "failed", "message": message})


def smaller(spec: TrainSpec) -> TrainSpec | None:
    """The same training in less memory: half the micro-batch and twice the accumulation, then activation checkpointing.

    A micro-batch that cannot be halved evenly becomes the largest that divides the rank's share of the batch. None at
    the end of the ladder; prefix tuning has no last step, because recomputed blocks would leave its prefix out.
    """
    share = spec.micro_batch * spec.accumulation
    if spec.micro_batch > 1:
        micro = max(size for size in range(1, spec.micro_batch // 2 + 1) if share % size == 0)
        return spec.model_copy(update={"micro_batch": micro, "accumulation": share // micro})
    if spec.gradient_checkpointing or "prefix" in spec.parameterisation:
        return None
    return spec.model_copy(update={"gradient_checkpointing": True})


def difference(before: PayloadSpec, after: PayloadSpec) -> str:
    """What the next attempt does otherwise, in a sentence; empty for nothing."""
    old, new = before.model_dump(), after.model_dump()
    changed = [f"{name} {old[name]} -> {new[name]}" for name in new if new[name] != old[name]]
    return f"the next attempt changes {', '.join(changed)}; the effective batch stays" if changed else ""


def resume_ladder(spec: PayloadSpec, rows: Sequence[Mapping[str, Any]]) -> PayloadSpec:
    """The spec that the recorded attempts had come to; a step that died takes the ladder up where it stood."""
    for row in rows:
        if row["outcome"] == "out_of_memory" and isinstance(spec, TrainSpec):
            spec = smaller(spec) or spec
    return spec


def changed_by(spec: PayloadSpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of ``spec`` that the ladder changed, with the values trained with last."""
    old, new = spec.model_dump(), resume_ladder(spec, rows).model_dump()
    return {name: new[name] for name in new if new[name] != old[name]}


def over_all(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of all attempts together: ``attempts``; ``lost_steps``, computed and not contained in the result;
    ``seconds_in_all``, from each attempt's start to its end.

    Goodput is ``useful_seconds / seconds_in_all``: what the result's steps took over what the job took.
    """
    reached = [row["numbers"].get("steps", 0.0) for row in rows]
    began = [row["numbers"].get("resumed_from", 0.0) for row in rows]
    return {
        "attempts": float(len(rows)),
        "lost_steps": sum(max(0.0, end - start) for end, start in zip(reached, began[1:], strict=False)),
        "seconds_in_all": sum(row["finished_at"] - row["started_at"] for row in rows),
    }
