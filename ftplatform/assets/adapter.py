"""``adapter``: the trained weights."""

import json
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.attempts import changed_by
from ftplatform.assets.curves import training_curves
from ftplatform.assets.line import LineRun, line_run
from ftplatform.assets.payloads import Diverged, attempts_of, run_payload
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.digests import digest_bytes, digest_json
from ftplatform.core.errors import NotFound
from ftplatform.core.ids import BaseKey
from ftplatform.core.job_figures import JobFigures, job_figures
from ftplatform.core.manifests import Adapter, BaseModel, TokenizedShards
from ftplatform.core.methods import find_method
from ftplatform.core.payload import Tracking, TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.data.tables import markdown_table
from ftplatform.launchers.base import Handle
from ftplatform.partitions import lines
from ftplatform.planning.calibration import CalibrationKey, Measurement, record
from ftplatform.planning.job_plan import steps_for
from ftplatform.planning.memory import expected_peak
from ftplatform.planning.setup import Setup
from ftplatform.recipes.lockfile import LOCKFILE, lock, observe
from ftplatform.resources import Platform
from ftplatform.resources.jobs import FIGURES, job_doc, latest_doc
from ftplatform.store import ObjectStore
from ftplatform.store.cache import cache_key, cached, code_digest


@dg.asset(
    partitions_def=lines,
    # Only for the order: what the base does already is said before money is spent.
    deps=["baseline"],
    group_name="training",
    owners=["team:post-training"],
    kinds={"pytorch", "huggingface"},
    pool="training",
    check_specs=check_specs(
        "adapter",
        lines,
        {
            "loss_finite": "every loss is a finite number, and the training did not diverge",
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
        spec = train_spec(run, training_plan, tokenized_shards)
        try:
            made, reused = train_once(context, run, spec)
        except Diverged as diverged:
            # The alert: a failed check with the curve, beside the error in the log and the attempt's row in the catalog.
            yield _alert(diverged, parts.store)
            raise
        numbers, artifacts = made["numbers"], made["artifacts"]
        trained = spec.model_copy(update=made.get("changed", {}))
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
            parent=training_plan.init.weights if training_plan.init else None,
            fingerprint=artifacts["fingerprint"],
        )
        _lock(run, training_plan, tokenized_shards, trained, manifest)
        # Another micro-batch than the plan's says nothing about the plan's estimate of memory.
        if not reused and trained == spec:
            _calibrate(run, training_plan, numbers)
        figures = _figures(run, training_plan, spec.key, made)
        if reused:
            context.log.info("Same data, base, recipe and code: the weights are there already, nothing was trained.")
        yield result(
            manifest,
            {
                **{name: round(value, 6) for name, value in numbers.items()},
                "cost": f"{figures.price:.6f} {figures.currency}",
                "what it took": _table([{"": name, "figure": text} for name, text in figures.words().items()]),
                "curves": picture(training_curves(metrics), "curves per step"),
                **_profile(parts.store, artifacts),
                "mlflow run": made["run_name"],
                **_history(made.get("history", [])),
                "weights": manifest.weights,
            },
            reused=reused,
        )


def train_spec(run: LineRun, plan: Plan, shards: TokenizedShards) -> TrainSpec:
    settings = run.parts.settings
    work: dict[str, Any] = {
        "base_weights": plan.base.weights,
        "shards": {name: digest for name, digest in shards.shards.items() if shards.sequences[name] and name != "test"},
        "max_length": shards.max_length,
        "method": plan.method,
        "options": plan.method_options,
        "teacher_weights": _teacher(run, plan),
        "parameterisation": plan.parameterisation,
        "init_weights": plan.init.weights if plan.init else None,
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
        "nodes": plan.placement.nodes,
        "strategy": plan.strategy,
        "gradient_checkpointing": plan.gradient_checkpointing,
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
        others=settings.trackers,
    )
    device = run.parts.hardware.get(plan.placement.gpu)
    peak = device.bf16_tflops if device.is_gpu else None
    return TrainSpec(key=key, store=settings.store, tracking=tracking, peak_tflops=peak, **work)


def _figures(run: LineRun, plan: Plan, key: str, made: dict[str, Any]) -> JobFigures:
    """What the training took, kept for `ft job show`."""
    parts, place = run.parts, plan.placement
    figures = job_figures(
        attempts_of(parts, run.job, key), made["numbers"], profile=made["artifacts"].get("profile"),
        gpu=place.gpu, gpus=place.gpus, rate=parts.hardware.get(place.gpu).hourly(gpus=place.gpus, spot=place.spot),
        currency=plan.currency,
    )  # fmt: skip
    parts.store.put_doc(job_doc(run.job, FIGURES), figures.model_dump(mode="json"))
    return figures


def _table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    return dg.MetadataValue.md(markdown_table(rows))


def _profile(store: ObjectStore, artifacts: dict[str, str]) -> dict[str, Any]:
    """The costliest operators, and where the trace is, of a training that was profiled."""
    if "profile" not in artifacts:
        return {}
    costly = json.loads(store.get_bytes(artifacts["operators"]))
    columns = {"operator": "operator", "ms": "ms a step", "share": "share", "calls": "calls a step"}
    return {
        "operators": _table([{title: row[name] for name, title in columns.items()} for row in costly]),
        "profile": f"object {artifacts['profile'][:12]}: `ft job profile` writes it to a file",
    }


def _lock(run: LineRun, plan: Plan, shards: TokenizedShards, spec: TrainSpec, manifest: Adapter) -> None:
    """Keep what has to be the same for the same weights; `ft reproduce` compares with it."""
    parts = run.parts
    image = plan.placement.image or parts.settings.gpu_image
    locked = lock(run.job, plan, shards, spec, manifest, observe(spec.method, image, parts.settings.payload_python))
    parts.store.put_doc(job_doc(run.job, LOCKFILE), locked.model_dump(mode="json"))


def _calibrate(run: LineRun, plan: Plan, numbers: dict[str, float]) -> None:
    """Keep what the training measured beside what the plan said, for the plans to come.

    A training that resumed at its last step did no work to measure; offload is slow for reasons that no other strategy has.
    """
    if not numbers.get("tokens_per_second") or plan.strategy == "offload":
        return
    setup = Setup.from_recipe(run.recipe)
    key = CalibrationKey(
        base=plan.base.key, parameterisation=setup.measured_as, length=plan.training.max_length, gpu=plan.placement.gpu
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


def train_once(
    context: dg.AssetExecutionContext,
    run: LineRun,
    spec: TrainSpec,
    stage: str = "training",
    stop: Callable[[Handle], bool] = lambda handle: False,
) -> tuple[dict[str, Any], bool]:
    """What training ``spec`` made, and whether it was there already; see ``run_payload``."""
    return cached(run.parts.store, "train", spec.key, lambda: _train(context, run, spec, stage, stop), needs=_objects)


def _train(
    context: dg.AssetExecutionContext, run: LineRun, spec: TrainSpec, stage: str, stop: Callable[[Handle], bool]
) -> dict[str, Any]:
    outcome = run_payload(context, run.parts, spec, stage=stage, job=run.job, keep_alive=run.keep_alive, stop=stop)
    assert spec.tracking is not None
    attempts = attempts_of(run.parts, run.job, spec.key)
    return {
        "artifacts": outcome.artifacts,
        "numbers": outcome.numbers,
        "run_name": spec.tracking.run_name,
        "history": [f"attempt {one['attempt']} ended {one['outcome']}: {one['message']}" for one in attempts],
        "changed": changed_by(spec, attempts),
    }


def _history(lines: list[str]) -> dict[str, Any]:
    """The attempts in sentences, where there was more than one."""
    first_lines = [line.splitlines()[0] for line in lines]
    return {"history": dg.MetadataValue.md("\n".join(f"- {line}" for line in first_lines))} if len(lines) > 1 else {}


def _alert(diverged: Diverged, store: ObjectStore) -> dg.AssetCheckResult:
    result = diverged.result
    metrics = [json.loads(line) for line in store.get_bytes(result.artifacts["metrics"]).splitlines()]
    metadata: dict[str, Any] = {"message": result.message, **result.numbers}
    if metrics:
        metadata["curves"] = picture(training_curves(metrics), "curves per step")
    return dg.AssetCheckResult(check_name="loss_finite", passed=False, metadata=metadata)


def _objects(made: dict[str, Any]) -> list[str]:
    return list(made["artifacts"].values())


def _checks(metrics: list[dict[str, Any]], numbers: dict[str, float], run: LineRun, weights: str) -> list[CheckResult]:
    losses = [line["loss"] for line in metrics if "loss" in line]
    finite = bool(losses) and all(math.isfinite(loss) for loss in losses)
    tree = run.parts.store.tree(weights)
    matches = digest_json(tree.model_dump(mode="json")) == weights and all(
        run.parts.store.sound(file.digest) for file in tree.files
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
