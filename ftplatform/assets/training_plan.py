"""``training_plan``: a job with every default filled in, every input pinned, sized and priced before money is spent."""

from collections.abc import Iterator

import dagster as dg

from ftplatform.assets.line import LineRun, line_run
from ftplatform.assets.plan_inputs import inputs_of, newest_base, pinned_options, pinned_suites, site_of
from ftplatform.assets.reporting import check_specs, result, to_dagster
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.manifests import CuratedDataset
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import Recipe
from ftplatform.data.tables import markdown_table
from ftplatform.partitions import lines
from ftplatform.planning.calibration import measured_by
from ftplatform.planning.job_plan import CHECKS, make_plan
from ftplatform.resources import Platform


@dg.asset(
    partitions_def=lines,
    group_name="training",
    owners=["team:post-training"],
    kinds={"yaml"},
    check_specs=[
        *check_specs("training_plan", lines, CHECKS),
        *check_specs(
            "training_plan", lines, {"heldout_asked": "the dataset's own held-out rows judge the model"}, blocking=False
        ),
    ],
)
def training_plan(
    context: dg.AssetExecutionContext, platform: Platform, curated_dataset: CuratedDataset
) -> Iterator[object]:
    """The resolved job: data, base model, recipe, suites and champion by digest; memory, duration and price as estimates."""
    with line_run(context, platform, new_job=True) as run:
        parts = run.parts
        plan, checks, heldout = plan_job(run, run.recipe, curated_dataset)
        registered = parts.catalog.recipes.get(run.line.recipe).content_digest
        plan = plan.model_copy(update={"overrides": run.overrides, "recipe_digest": registered})
        for check in (*checks, heldout):
            yield to_dagster(check)
        if stopped := blocking(checks):
            raise dg.Failure(description="; ".join(f"{c.name}: {c.message}" for c in stopped), allow_retries=False)
        parts.catalog.jobs.pin(run.job, curated_dataset.content_digest)
        yield result(
            plan,
            {
                "job": run.job,
                "price": f"{plan.price[0]:g} to {plan.price[1]:g} {plan.currency}",
                "hours": f"{plan.hours[0]:.4g} to {plan.hours[1]:.4g}",
                "memory_gb": plan.memory_gb.total,
                "steps (estimate)": plan.steps,
                "tokens (estimate)": plan.train_tokens,
                "gpu": f"{plan.placement.gpus} x {plan.placement.gpu}",
                "nodes": plan.placement.nodes,
                "strategy": plan.strategy,
                "micro-batch x accumulation": f"{plan.micro_batch} x {plan.accumulation}",
                "activation checkpointing": plan.gradient_checkpointing,
                **({"overrides": plan.overrides} if plan.overrides else {}),
                "why": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in plan.reasons)),
                "memory": dg.MetadataValue.md(markdown_table([plan.memory_gb.model_dump()])),
                **({"rejected": dg.MetadataValue.md(markdown_table(list(plan.rejected)))} if plan.rejected else {}),
                "suites": dg.MetadataValue.md(markdown_table([suite.model_dump() for suite in plan.suites])),
                # Partition sets do not map between a line and a base model, so this link is metadata and not an edge.
                "base model": plan.base.key,
            },
        )


def plan_job(run: LineRun, recipe: Recipe, curated: CuratedDataset) -> tuple[Plan, list[CheckResult], CheckResult]:
    """The plan for training ``recipe`` on the dataset, its checks, and whether the dataset's own rows judge the model."""
    parts = run.parts
    base = newest_base(parts, recipe)
    suites, heldout = pinned_suites(parts, recipe, curated)
    inputs = inputs_of(parts, recipe, base, curated, suites)
    measured = measured_by(parts.store, base.key)
    plan, checks = make_plan(recipe, inputs, parts.hardware, site_of(parts), measured)
    options = pinned_options(parts, recipe, run.line.dataset.tenant)
    return plan.model_copy(update={"method_options": options}), checks, heldout
