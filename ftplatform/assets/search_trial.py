"""One trial of a search: planned, tokenized, trained, judged, as a job of its values would be."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.adapter import train_spec
from ftplatform.assets.line import LineRun
from ftplatform.assets.payloads import run_payload
from ftplatform.assets.tokenized_shards import shards_of
from ftplatform.assets.training_plan import plan_job
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.dataset_config import HELDOUT_SUITE
from ftplatform.core.errors import DataRefused, InvalidConfig, PlanRefused
from ftplatform.core.manifests import CuratedDataset, TokenizedShards
from ftplatform.core.methods import find_method
from ftplatform.core.payload import PROGRESS_FILE, ModelSpec, TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import Objective
from ftplatform.core.search_result import Trial
from ftplatform.evaluation.score_cache import load_scores, missing_scores, record_scores, score_requests
from ftplatform.evaluation.suite_files import pinned_spec
from ftplatform.launchers.base import Handle
from ftplatform.recipes.overrides import overridden
from ftplatform.search.study import NINTHS


@dataclass(frozen=True, slots=True)
class Prepared:
    trial: Trial
    plan: Plan
    spec: TrainSpec


def prepare(run: LineRun, recipe: Recipe, curated: CuratedDataset, trial: Trial) -> Prepared:
    """The trial's plan and training, its rows tokenized.

    Raises:
        PlanRefused: its values cannot be trained on this data.
        InvalidConfig: nothing of this search can: there are no validation rows to judge a trial by.
    """
    assert recipe.search is not None
    values = trial.parameters | ({"training.max_steps": recipe.search.max_steps} if recipe.search.max_steps else {})
    values |= _pod_of(run, recipe)
    try:
        plan, checks, _ = plan_job(run, overridden(recipe, values), curated)
        _refuse(checks)
        made, _ = shards_of(run.parts, plan, run.line.dataset)
    except (InvalidConfig, DataRefused) as error:
        raise PlanRefused(str(error)) from error
    _refuse([CheckResult(**check) for check in made["checks"]])
    shards = TokenizedShards.model_validate(made["manifest"])
    spec = train_spec(run, plan, shards)
    if recipe.search.pruner == "asha":
        if not shards.sequences.get("validation"):
            raise InvalidConfig(
                f"{run.line}: the search stops trials by the validation rows, and the dataset has none. Raise split.validation in "
                "dataset.yaml, or set search.pruner: none"
            )
        if not plan.training.evaluate_every:
            every = math.ceil(spec.steps / NINTHS)
            training = plan.training.model_copy(update={"evaluate_every": every})
            plan = plan.model_copy(update={"training": training})
            spec = train_spec(run, plan, shards)
    trial = trial.model_copy(
        update={"steps": spec.steps, "planned_hours": plan.hours[1], "planned_price": plan.price[1]}
    )
    return Prepared(trial, plan, spec)


def _pod_of(run: LineRun, recipe: Recipe) -> dict[str, Any]:
    """On a cluster trials run in the pod of the search, which was placed before there was any plan: by the recipe."""
    if run.parts.settings.executor == "local":
        return {}
    hardware, default = recipe.hardware, run.parts.settings.default_gpu
    return {
        "hardware.gpu": default if hardware.gpu == "auto" else hardware.gpu,
        "hardware.gpus": 1 if hardware.gpus == "auto" else hardware.gpus,
    }


def validation_figure(method: str) -> Objective:
    """What an evaluation on the validation rows gives: the loss, or the reward of answers."""
    return "eval_reward" if find_method(method).generates else "eval_loss"


def score_of(
    context: dg.AssetExecutionContext,
    run: LineRun,
    prepared: Prepared,
    made: dict[str, Any],
    objective: Objective,
    stop: Callable[[Handle], bool],
) -> float:
    """The objective of a finished training.

    Raises:
        PayloadFailed: the evaluation did not end well.
        InvalidConfig: the training gave no such figure.
    """
    if objective != "heldout":
        if objective not in made["numbers"]:
            raise InvalidConfig(
                f"{run.line}: trials are judged by {objective}, and the training gives none: it has no validation rows, or the "
                f"method {prepared.plan.method} does not measure it. Set search.objective, or raise split.validation"
            )
        return float(made["numbers"][objective])
    parts, plan = run.parts, prepared.plan
    model = ModelSpec(
        name="candidate",
        kind="full" if plan.parameterisation == "full" else "lora",
        base_weights=plan.base.weights,
        weights=made["artifacts"]["weights"],
        scores=not find_method(plan.method).answers,
    )
    suite = next(suite for suite in plan.suites if suite.name == HELDOUT_SUITE)
    requests = score_requests([model], [pinned_spec(parts.store, suite)])
    spec = missing_scores(parts.store, requests, address=parts.settings.store, threads=parts.settings.threads)
    if spec is not None:
        stage = f"trial {prepared.trial.number} score"
        outcome = run_payload(context, parts, spec, stage=stage, job=run.job, keep_alive=run.keep_alive, stop=stop)
        record_scores(parts.store, spec, outcome)
    return load_scores(parts.store, requests)["candidate"][HELDOUT_SUITE].score


def progress_of(handle: Handle) -> Iterator[dict[str, Any]]:
    """Every whole progress line of this attempt and those before it, oldest attempt first."""
    folders = sorted(path for path in handle.folder.parent.iterdir() if path.name.isdigit())
    for folder in folders:
        yield from _lines(folder / PROGRESS_FILE)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


def _refuse(checks: list[CheckResult]) -> None:
    if stopped := blocking(checks):
        raise PlanRefused("; ".join(f"{check.name}: {check.message}" for check in stopped))
