"""``registry_entry``: every candidate registered with its verdict; the champion changes only on ``promote``."""

from collections.abc import Iterator

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.plan_inputs import registered_model
from ftplatform.assets.reporting import check_specs, result, to_dagster
from ftplatform.core.checks import CheckResult
from ftplatform.core.errors import Conflict
from ftplatform.core.ids import BaseKey, served_name
from ftplatform.core.manifests import Adapter, EvalReport, RegistryEntry
from ftplatform.core.methods import find_method
from ftplatform.core.plan import PinnedChampion, Plan
from ftplatform.data.tables import markdown_table
from ftplatform.partitions import lines
from ftplatform.resources import Platform


@dg.asset(
    partitions_def=lines,
    group_name="registry",
    owners=["team:ml-platform"],
    kinds={"mlflow"},
    check_specs=check_specs(
        "registry_entry",
        lines,
        {
            "verdict_bound": "the stored verdict is about exactly these bytes",
        },
    ),
)
def registry_entry(
    context: dg.AssetExecutionContext,
    platform: Platform,
    training_plan: Plan,
    adapter: Adapter,
    eval_report: EvalReport,
) -> Iterator[object]:
    """The candidate as a version of the dataset's registered model, with its verdict; promoted or quarantined."""
    with line_run(context, platform) as run:
        parts, model = run.parts, registered_model(run.line.dataset, training_plan.method)
        answers = find_method(training_plan.method).answers
        bound = eval_report.adapter == adapter.weights
        message = f"verdict for {eval_report.adapter[:12]}, adapter {adapter.weights[:12]}"
        yield to_dagster(CheckResult("verdict_bound", bound, message))
        if not bound:
            raise Conflict(
                f"{message}: the report is about other bytes; evaluate this adapter first", retry_helps=False
            )

        name = served_name(BaseKey.parse(adapter.base), run.line.dataset, adapter.weights)
        report = eval_report.content_digest
        champion = parts.catalog.champions.get(model)
        # The model in service, trained once more to the same bytes, stays the version it is.
        same = champion is not None and champion["weights"] == adapter.weights
        version = (
            champion["version"]
            if champion is not None and same
            else parts.registry.register(
                model,
                adapter=adapter.weights,
                report=report,
                verdict=eval_report.verdict,
                source=f"{parts.settings.store.url}/trees/{adapter.weights}",
                tags={
                    "ft.dataset": str(run.line.dataset),
                    "ft.recipe": str(run.line.recipe),
                    "ft.job": run.job,
                    "ft.base": adapter.base,
                    "ft.kind": adapter.kind,
                    "ft.method": training_plan.method,
                    "ft.data": training_plan.curated.content_digest,
                    "ft.served_name": name,
                },
            )
        )
        if eval_report.verdict == "promote" and (champion is None or champion["version"] != version):
            expected = training_plan.champion.version if training_plan.champion else None
            new = PinnedChampion(
                version=version, kind=adapter.kind, weights=adapter.weights, base_weights=adapter.base_weights
            )
            parts.catalog.champions.swap(model, expected, new, name, actor=f"job {run.job}")
            champion = parts.catalog.champions.get(model)
        parts.registry.repair(model, champion["version"] if champion else None)
        entry = RegistryEntry(
            model=model,
            version=version,
            adapter=adapter.weights,
            verdict=eval_report.verdict,
            report=report,
            champion=champion is not None and champion["version"] == version,
            served_name=name,
            answers=answers,
        )
        context.log.info(
            f"{model} version {version}: {entry.verdict}" + (", now the champion" if entry.champion else "")
        )
        table = [
            {"version": v["version"], **{k.removeprefix("ft."): t for k, t in v["tags"].items()}}
            for v in parts.registry.versions(model)
        ]
        yield result(entry, {**entry.model_dump(), "versions": dg.MetadataValue.md(markdown_table(table[::-1]))})
