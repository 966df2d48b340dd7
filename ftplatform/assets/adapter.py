"""``adapter``: the trained weights."""

import json
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.curves import loss_curve
from ftplatform.assets.line import LineRun, line_run
from ftplatform.assets.payloads import run_payload
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.digests import digest_bytes, digest_json
from ftplatform.core.errors import NotFound
from ftplatform.core.ids import BaseKey
from ftplatform.core.manifests import Adapter, BaseModel, TokenizedShards
from ftplatform.core.methods import find_method
from ftplatform.core.payload import Tracking, TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.partitions import lines
from ftplatform.planning.calibration import CalibrationKey, Measurement, record
from ftplatform.planning.job_plan import steps_for
from ftplatform.planning.memory import expected_peak
from ftplatform.planning.setup import Setup
from ftplatform.recipes.lockfile import LOCKFILE, lock, observe
from ftplatform.resources import Platform
from ftplatform.resources.jobs import job_doc, latest_doc
from ftplatform.store.cache import cache_key, cached, code_digest


@dg.asset(
    partitions_def=lines,
    group_name="training",
    owners=["team:post-training"],
    kinds={"pytorch", "huggingface"},
    pool="training",
    check_specs=check_specs(
        "adapter",
        lines,
        {
            "loss_finite": "every loss is a finite number",
            "bytes_match": "the stored weights are those the manifest names",
        },
    ),
)
def adapter(
    context: dg.AssetExecutionContext, platform: Platform, training_plan: Plan, tokenized_shards: TokenizedShards
) -> Iterator[object]:
    """Trained weights (LoRA or full) by content, with the loss curve, speed, memory and the cost of making them."""
    with line_run(context, platform) as run:
        parts = run.parts
        spec = _spec(run, training_plan, tokenized_shards)
        made, reused = cached(parts.store, "train", spec.key, lambda: _train(context, run, spec), needs=_objects)
        numbers, artifacts = made["numbers"], made["artifacts"]
        metrics = [json.loads(line) for line in parts.store.get_bytes(artifacts["metrics"]).splitlines()]
        checks = _checks(metrics, numbers, run, artifacts["weights"])
        for check in checks:
            yield to_dagster(check)
        if stopped := blocking(checks):
            raise dg.Failure(description="; ".join(c.message for c in stopped), allow_retries=False)
        manifest = Adapter(
            kind="full" if training_plan.parameterisation == "full" else "lora",
            weights=artifacts["weights"],
            base=training_plan.base.key,
            base_weights=training_plan.base.weights,
            steps=spec.steps,
            tokens=int(numbers["tokens"]),
            final_loss=numbers["final_loss"],
            template=tokenized_shards.template,
            fingerprint=artifacts["fingerprint"],
        )
        _lock(run, training_plan, tokenized_shards, spec, manifest)
        if not reused:
            _calibrate(run, training_plan, numbers)
        rate = parts.hardware.get(training_plan.placement.gpu).hourly(
            gpus=training_plan.placement.gpus, spot=training_plan.placement.spot
        )
        if reused:
            context.log.info("Same data, base, recipe and code: the weights are there already, nothing was trained.")
        yield result(
            manifest,
            {
                **{name: round(value, 6) for name, value in numbers.items()},
                "cost": f"{numbers['seconds'] / 3600 * rate:.6f} {training_plan.currency}",
                "loss": picture(loss_curve(metrics), "loss per step"),
                "mlflow run": made["run_name"],
                "weights": manifest.weights,
            },
            reused=reused,
        )


def _spec(run: LineRun, plan: Plan, shards: TokenizedShards) -> TrainSpec:
    settings = run.parts.settings
    work: dict[str, Any] = {
        "base_weights": plan.base.weights,
        "shards": {name: digest for name, digest in shards.shards.items() if shards.sequences[name] and name != "test"},
        "max_length": shards.max_length,
        "method": plan.method,
        "options": plan.method_options,
        "teacher_weights": _teacher(run, plan),
        "parameterisation": plan.parameterisation,
        "lora": plan.lora.model_dump(),
        "training": plan.training.model_dump(),
        "micro_batch": plan.micro_batch,
        "accumulation": plan.accumulation,
        "steps": steps_for(
            shards.sequences["train"] // find_method(plan.method).sequences,
            plan.training.batch_size,
            plan.training.epochs,
            plan.training.max_steps,
        ),
        "processes": plan.placement.gpus,
        "threads": settings.threads,
    }
    # Per tenant: another's identical job must neither share a process with this one nor be visible as "reused".
    tenant = run.line.dataset.tenant
    key = cache_key("train", code=_code(plan.method), inputs={**work, "tenant": tenant})
    tracking = Tracking(
        uri=settings.tracking_uri,
        experiment=str(run.line.dataset),
        run_name=f"{run.line.recipe} {key[:8]}",
        tags={"ft.line": str(run.line), "ft.job": run.job, "ft.data": plan.curated.content_digest},
    )
    return TrainSpec(key=key, store=settings.store, tracking=tracking, **work)


def _lock(run: LineRun, plan: Plan, shards: TokenizedShards, spec: TrainSpec, manifest: Adapter) -> None:
    """Keep what has to be the same for the same weights; `ft reproduce` compares with it."""
    parts = run.parts
    image = plan.placement.image or parts.settings.gpu_image
    locked = lock(run.job, plan, shards, spec, manifest, observe(spec.method, image, parts.settings.payload_python))
    parts.store.put_doc(job_doc(run.job, LOCKFILE), locked.model_dump(mode="json"))


def _calibrate(run: LineRun, plan: Plan, numbers: dict[str, float]) -> None:
    """Keep what the training measured beside what the plan said, for the plans to come.

    A training that resumed at its last step did no work to measure.
    """
    if not numbers.get("tokens_per_second"):
        return
    setup = Setup.from_recipe(run.parts.catalog.recipes.get(run.line.recipe))
    key = CalibrationKey(
        base=plan.base.key, parameterisation=setup.name, length=plan.training.max_length, gpu=plan.placement.gpu
    )
    measured = Measurement(
        estimated_gb=expected_peak(plan.memory_gb, plan.accumulation),
        peak_gb=numbers["peak_memory_bytes"] / 1e9,
        tokens_per_second=numbers["tokens_per_second"] / plan.placement.gpus,
    )
    record(run.parts.store, key, run.job, measured)


def _teacher(run: LineRun, plan: Plan) -> str | None:
    """Weights of the base model that a distillation learns from; its key names one content for ever."""
    key = plan.method_options.get("teacher") if plan.method == "distillation" else None
    if key is None:
        return None
    document = run.parts.store.find_doc(latest_doc("base_model", str(BaseKey.parse(key))))
    if document is None:
        raise NotFound(f"the teacher {key} was never made: materialize base_model for partition {key}")
    return BaseModel.model_validate(document["manifest"]).weights


def _code(method: str) -> str:
    """Digest of the source text that trains with ``method``: the payload's, the method's, and a plug-in's module."""
    module = find_method(method).implementation.partition(":")[0]
    if module.startswith("ftplatform."):
        return code_digest("training/__main__", module.removeprefix("ftplatform.").replace(".", "/"))
    found = find_spec(module)
    if found is None or found.origin is None:
        raise NotFound(
            f"the method {method} names the module {module}, which is not installed here; install its package"
        )
    return digest_json([code_digest("training/__main__"), digest_bytes(Path(found.origin).read_bytes())])


def _train(context: dg.AssetExecutionContext, run: LineRun, spec: TrainSpec) -> dict[str, Any]:
    outcome = run_payload(context, run.parts, spec, stage="training", job=run.job, keep_alive=run.keep_alive)
    assert spec.tracking is not None
    return {"artifacts": outcome.artifacts, "numbers": outcome.numbers, "run_name": spec.tracking.run_name}


def _objects(made: dict[str, Any]) -> list[str]:
    return list(made["artifacts"].values())


def _checks(metrics: list[dict[str, Any]], numbers: dict[str, float], run: LineRun, weights: str) -> list[CheckResult]:
    losses = [line["loss"] for line in metrics if "loss" in line]
    finite = bool(losses) and all(math.isfinite(loss) for loss in losses)
    tree = run.parts.store.tree(weights)
    matches = digest_json(tree.model_dump(mode="json")) == weights and all(
        digest_bytes(run.parts.store.get_bytes(f.digest)) == f.digest for f in tree.files
    )
    return [
        CheckResult(
            "loss_finite",
            finite,
            f"{len(losses)} steps, first loss {losses[0]:.4g}, last {losses[-1]:.4g}"
            if finite
            else "a loss is missing or not finite",
            numbers={"final_loss": numbers["final_loss"]},
        ),
        CheckResult("bytes_match", matches, f"{len(tree.files)} files, tree {weights[:12]}"),
    ]
