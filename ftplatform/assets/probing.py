"""A few steps of the real training payload on rows of the greatest length, to measure what a plan can only estimate."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from ftplatform.assets.plan_inputs import made_base
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig, PayloadFailed
from ftplatform.core.ids import BaseKey
from ftplatform.core.methods import find_method
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.data.tokens.shards import Layout, ShardWriter
from ftplatform.data.tokens.tokenize import TokenBlock
from ftplatform.planning.calibration import CalibrationKey, Measurement, record
from ftplatform.planning.memory import expected_peak
from ftplatform.planning.setup import Setup
from ftplatform.resources.platform import Parts
from ftplatform.store.cache import code_digest

STEPS = 5
"""The first two warm up (allocator, kernels); the speed is that of the others."""

Run = Callable[[TrainSpec], PayloadResult]


def probe(parts: Parts, plan: Plan, setup: Setup, run: Run) -> Measurement:
    """Run the plan's largest micro-batch for ``STEPS`` steps by ``run`` and keep what it needed for the plans to come.

    Raises:
        InvalidConfig: a method that generates: its speed is that of its answers, which random rows do not have.
        PayloadFailed: the probe did not end well; ``out of memory`` means that the estimate is too low for this hardware.
    """
    spec = probe_spec(parts, plan)
    outcome = run(spec)
    if outcome.outcome != "done":
        raise PayloadFailed(
            f"the probe of micro-batch {plan.micro_batch} on {plan.placement.gpus} x {plan.placement.gpu} ended {outcome.outcome}: "
            f"{outcome.message}"
        )
    measured = Measurement(
        estimated_gb=expected_peak(plan.memory_gb, 1),
        peak_gb=outcome.numbers["peak_memory_bytes"] / 1e9,
        tokens_per_second=outcome.numbers["tokens_per_second"] / plan.placement.gpus,
    )
    key = CalibrationKey(
        base=plan.base.key, parameterisation=setup.measured_as, length=plan.training.max_length, gpu=plan.placement.gpu
    )
    record(parts.store, key, f"probe-{spec.key[:16]}", measured)
    return measured


def probe_spec(parts: Parts, plan: Plan) -> TrainSpec:
    """The plan's training, as far as memory and speed are concerned, on random tokens; raises InvalidConfig."""
    info = find_method(plan.method)
    if info.generates:
        raise InvalidConfig(
            f"{plan.method} answers prompts while it trains, and random rows have no answers to time: a short job "
            "(training.max_steps) measures it"
        )
    batch = plan.micro_batch * plan.placement.gpus
    layout = cast(Layout, info.layouts[0])
    shard = _rows(parts, plan, layout, batch * info.sequences)
    teacher = plan.method_options.get("teacher") if plan.method == "distillation" else None
    unneeded = {"evaluate_every": 0, "patience": 0, "keep": "last", "profile_steps": 0}
    training = plan.training.model_copy(update={**unneeded, "batch_size": batch, "max_steps": STEPS})
    work: dict[str, Any] = {
        "base_weights": plan.base.weights,
        "shards": {"train": (shard,)},
        "max_length": plan.training.max_length,
        "method": plan.method,
        "options": plan.method_options,
        "teacher_weights": made_base(parts, BaseKey.parse(teacher)).weights if teacher else None,
        "parameterisation": plan.parameterisation,
        "lora": plan.lora.model_dump(),
        "training": training.model_dump(),
        "micro_batch": plan.micro_batch,
        "accumulation": 1,
        "steps": STEPS,
        "processes": plan.placement.gpus,
        "nodes": plan.placement.nodes,
        "strategy": plan.strategy,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "threads": parts.settings.threads,
        "probe": True,
    }
    key = digest_json({"probe": work, "gpu": plan.placement.gpu, "code": code_digest("training/__main__")})
    return TrainSpec(key=key, store=parts.settings.store, **work)


def _rows(parts: Parts, plan: Plan, layout: Layout, sequences: int) -> str:
    """A shard of random full sequences; every token but the first is learned, which is the most that a row can need."""
    length = plan.training.max_length
    draw = np.random.default_rng(plan.training.seed)
    ids = draw.integers(0, plan.base.vocabulary, (sequences, length), dtype=np.int32)
    learned = np.ones((sequences, length), dtype=np.bool_)
    learned[:, 0] = False
    block = TokenBlock(
        ids.reshape(-1),
        learned.reshape(-1),
        np.full(sequences, length, dtype=np.int64),
        np.ones(sequences, dtype=np.int32),
        tuple(b"true" if number % 2 else b"false" for number in range(sequences)),
    )
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(parts.store, Path(folder), layout, length, 0)
        writer.add(block)
        (shard,) = writer.close().files
    return shard
