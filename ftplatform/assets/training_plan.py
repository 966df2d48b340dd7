"""``training_plan``: a job with every default filled in, every input pinned, sized and priced before money is spent."""

import json
from collections.abc import Iterator
from itertools import islice

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.reporting import check_specs, result, to_dagster
from ftplatform.assets.tokenizing import chat_format, tree_file
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.dataset_config import HELDOUT_SUITE, DatasetConfig
from ftplatform.core.errors import NotFound
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.plan import PinnedSuite
from ftplatform.core.recipe import Recipe
from ftplatform.data.blocks import read_rows
from ftplatform.data.tables import markdown_table
from ftplatform.data.tokens.tokenize import tokenize_rows
from ftplatform.evaluation.margins import gating_suites
from ftplatform.evaluation.suite_files import heldout_sample, publish_heldout, publish_suite
from ftplatform.partitions import lines
from ftplatform.planning.job_plan import CHECKS, Inputs, make_plan
from ftplatform.resources import Platform
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts

SAMPLED_ROWS = 200
"""Rows tokenized to estimate the dataset's tokens: the mean of 200 rows is within a few percent, the plan's interval is wider."""


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
        recipe = parts.catalog.recipes.get(run.line.recipe)
        base = _base(parts, recipe)
        suites, heldout = _suites(parts, recipe, curated_dataset)
        inputs = Inputs(
            curated=curated_dataset,
            base=base,
            base_config=json.loads(tree_file(parts.store, base.weights, "config.json")),
            champion=parts.catalog.champions.pinned(run.line.dataset.registered_model),
            suites=suites,
            train_tokens=_tokens(parts, recipe, base, curated_dataset),
        )
        local = parts.settings.executor == "local"
        plan, checks = make_plan(recipe, inputs, parts.hardware, default_gpu=parts.settings.default_gpu, local=local)
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
                "why": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in plan.reasons)),
                "memory": dg.MetadataValue.md(markdown_table([plan.memory_gb.model_dump()])),
                "suites": dg.MetadataValue.md(markdown_table([suite.model_dump() for suite in plan.suites])),
                # Partition sets do not map between a line and a base model, so this link is metadata and not an edge.
                "base model": base.key,
            },
        )


def _base(parts: Parts, recipe: Recipe) -> BaseModel:
    key = parts.catalog.bases.newest(recipe.base)
    document = parts.store.find_doc(latest_doc("base_model", str(key)))
    if document is None:
        raise NotFound(f"base model {key} is registered but was never made: materialize base_model for partition {key}")
    return BaseModel.model_validate(document["manifest"])


def _suites(parts: Parts, recipe: Recipe, curated: CuratedDataset) -> tuple[tuple[PinnedSuite, ...], CheckResult]:
    """The suites that gate, and whether the dataset's own rows are among them.

    Raises:
        DataRefused: conversations without any held out: nothing could show that a model learned them.
    """
    config = DatasetConfig.model_validate(parts.store.get_json(curated.config))
    rows, test = curated.rows["test"], heldout_sample(read_rows(parts.store.path(curated.splits["test"])))
    names = gating_suites((*config.suites, *recipe.suites))
    if rows and not test:
        # Pairs, labels, prompts and documents have no single right answer to compare with.
        names = tuple(name for name in names if name != HELDOUT_SUITE)
    stored = [
        publish_heldout(parts.store, test, config.max_new_tokens)
        if name == HELDOUT_SUITE
        else publish_suite(parts.store, name)
        for name in names
    ]
    asked = HELDOUT_SUITE in names
    message = f"{len(test)} of {rows} held-out rows are asked."
    if not asked:
        message = f"None of the {rows} held-out rows is a conversation: the platform's suites alone judge this model."
    check = CheckResult("heldout_asked", asked, message, severity="warning", numbers={"rows": rows, "asked": len(test)})
    return tuple(suite.pinned(config.margins) for suite in stored), check


def _tokens(parts: Parts, recipe: Recipe, base: BaseModel, curated: CuratedDataset) -> int:
    count = curated.rows["train"]
    path = parts.store.path(curated.splits["train"])
    sample = list(islice(read_rows(path), 0, None, max(1, count // SAMPLED_ROWS)))
    text = chat_format(parts.store, base.weights)
    lengths = tokenize_rows(sample, text.tokenizer, text.template, recipe.training.max_length).lengths
    return round(sum(lengths) / len(sample) * count)
