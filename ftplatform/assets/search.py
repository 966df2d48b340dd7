"""``search``: the best values of a recipe's search space on a dataset, found by trials."""

from collections.abc import Iterator

import dagster as dg

from ftplatform.assets.line import LineRun, line_run
from ftplatform.assets.plan_inputs import newest_base, pinned_options, pinned_suites, registered_model
from ftplatform.assets.plan_start import pinned_start
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.assets.search_loop import Searcher
from ftplatform.assets.search_trial import validation_figure
from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import HELDOUT_SUITE
from ftplatform.core.errors import InvalidConfig, PayloadFailed
from ftplatform.core.manifests import CuratedDataset
from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import MAXIMIZED, Objective
from ftplatform.core.search_result import SearchResult, best_of
from ftplatform.data.tables import markdown_table
from ftplatform.partitions import lines
from ftplatform.planning.servable import servable
from ftplatform.planning.setup import Setup
from ftplatform.recipes.search_space import space_problems
from ftplatform.resources import Platform
from ftplatform.search.documents import Study, study_key
from ftplatform.search.figures import history_plot, importance_plot, values_plot
from ftplatform.search.space import own_values
from ftplatform.search.study import importance
from ftplatform.search.table import as_yaml, trial_rows

SHOWN = 100


class SearchRun(dg.Config):
    trials: int | None = None
    """Trials in all, in place of the recipe's ``search.trials``; more than last time goes on from those."""


@dg.asset(
    partitions_def=lines,
    group_name="on_demand",
    owners=["team:post-training"],
    kinds={"optuna"},
    pool="training",
    check_specs=check_specs(
        "search",
        lines,
        {"better_than_recipe": "the best trial is better than the one with the recipe's own values"},
        blocking=False,
    ),
)
def search(
    context: dg.AssetExecutionContext, platform: Platform, config: SearchRun, curated_dataset: CuratedDataset
) -> Iterator[object]:
    """Trainings with other values for some of the recipe's fields, the hopeless ones stopped early; what the best of them had."""
    with line_run(context, platform, new_job=True) as run:
        parts, recipe = run.parts, _searchable(run, config.trials)
        objective, judged_by = _objective(run, recipe, curated_dataset)
        base = newest_base(parts, recipe)
        start = pinned_start(parts, recipe, base, registered_model(run.line.dataset, recipe.method))
        key = study_key(
            recipe,
            curated=curated_dataset.content_digest,
            base=base.weights,
            pinned=[start and start.weights, pinned_options(parts, recipe, run.line.dataset.tenant)],
            judged_by=judged_by,
            objective=objective,
        )
        study = Study(parts.store, run.line, key)
        study.begin(objective)
        searcher = Searcher(context, run, recipe, curated_dataset, study, objective)
        known = [trial for trial in searcher.trials if trial.state in ("complete", "pruned")]
        if searcher.trials:
            context.log.info(f"{len(searcher.trials)} trials are there already, {len(known)} of them ended.")
        searcher.search(_slots(context, run, recipe))
        found = _result(run, recipe, curated_dataset, objective, key, searcher)
        yield to_dagster(_better(found, recipe))
        parts.catalog.jobs.set_state(run.job, "searched", f"best trial {found.best}: {objective} {found.score:.4g}")
        run.release()
        rows = trial_rows(found.trials, objective)
        yield result(
            found,
            {
                "best": dg.MetadataValue.md(f"```yaml\n{as_yaml(found.parameters)}```"),
                objective: found.score,
                "trials": len(found.trials),
                "complete": sum(trial.state == "complete" for trial in found.trials),
                "stopped early or refused": sum(trial.state == "pruned" for trial in found.trials),
                "hours": found.hours,
                "price": f"{found.price:.4g} {found.currency}",
                **({"ended before all trials": found.stopped} if found.stopped else {}),
                "history": picture(history_plot(found.trials, objective), "score of each trial"),
                **(
                    {"importance": picture(importance_plot(found.importance), "importance of each parameter")}
                    if found.importance
                    else {}
                ),
                "values": picture(values_plot(recipe, found.trials, objective), "score against each parameter's value"),
                "all trials": dg.MetadataValue.md(markdown_table(rows, limit=SHOWN)),
            },
            reused=len(known) == len(found.trials),
        )


def _searchable(run: LineRun, trials: int | None) -> Recipe:
    recipe = run.recipe
    if recipe.search is None:
        raise InvalidConfig(
            f"recipe {run.line.recipe} has no `search`: a space there says which fields may take which values, for example "
            "search: {space: {training.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}}"
        )
    wrong = space_problems(recipe, _refused_by_engine)
    if wrong:
        text = "\n".join(f"  {name}: {why}" for name, why in wrong.items())
        raise InvalidConfig(f"recipe {run.line.recipe} cannot be searched:\n{text}")
    if trials is None:
        return recipe
    if trials < 1:
        raise InvalidConfig(f"{run.line}: found {trials} trials, accepted is at least 1")
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"trials": trials})})


def _refused_by_engine(recipe: Recipe) -> str:
    """As a plan would say it; the engine of the plans of this deployment is the embedded one."""
    found = servable(Setup.from_recipe(recipe), "embedded")
    return "" if found.ok else found.why


def _objective(run: LineRun, recipe: Recipe, curated: CuratedDataset) -> tuple[Objective, str]:
    """What trials are judged by, and the digest of its rows."""
    assert recipe.search is not None
    suites, _ = pinned_suites(run.parts, recipe, curated)
    heldout = next((suite.digest for suite in suites if suite.name == HELDOUT_SUITE), None)
    asked = recipe.search.objective
    if asked == "heldout" and heldout is None:
        raise InvalidConfig(
            f"{run.line}: search.objective is heldout, and none of the dataset's held-out rows is a conversation to be asked: set it "
            "to eval_loss, or to auto"
        )
    if asked in ("auto", "heldout") and heldout is not None:
        return "heldout", heldout
    objective = validation_figure(recipe.method) if asked == "auto" else asked
    assert objective != "auto"
    return objective, curated.splits["validation"]


def _slots(context: dg.AssetExecutionContext, run: LineRun, recipe: Recipe) -> int:
    assert recipe.search is not None
    settings = run.parts.settings
    # A pod has the GPUs of one training; on a machine of its own the deployment says how many trainings it bears.
    slots = min(recipe.search.parallel, settings.training_slots if settings.executor == "local" else 1)
    if slots < recipe.search.parallel:
        context.log.info(f"{slots} trial(s) at a time: the deployment has no room for {recipe.search.parallel}.")
    return slots


def _result(
    run: LineRun, recipe: Recipe, curated: CuratedDataset, objective: Objective, key: str, searcher: Searcher
) -> SearchResult:
    trials = searcher.trials
    best = best_of(trials, objective)
    if best is None or best.score is None:
        whys = "; ".join(f"trial {trial.number}: {trial.why}" for trial in trials[:5])
        raise PayloadFailed(
            f"{run.line}: none of {len(trials)} trials came to an end with a score ({searcher.stopped or whys}); widen the space, or raise "
            "the caps"
        )
    return SearchResult(
        dataset=str(run.line.dataset),
        recipe=str(run.line.recipe),
        study=key,
        curated=curated.content_digest,
        objective=objective,
        trials=trials,
        best=best.number,
        parameters=best.parameters,
        score=best.score,
        importance=importance(recipe, objective, trials),
        hours=round(sum(trial.hours for trial in trials), 6),
        price=round(sum(trial.price for trial in trials), 6),
        currency=run.parts.hardware.currency,
        stopped=searcher.stopped,
    )


def _better(found: SearchResult, recipe: Recipe) -> CheckResult:
    own = next((t for t in found.trials if t.parameters == own_values(recipe) and t.score is not None), None)
    if own is None or own.score is None:
        message = "the recipe's own values lie outside the space, or their trial has no score: nothing to compare with"
        return CheckResult("better_than_recipe", True, message, severity="warning", numbers={"best": found.score})
    gain = (found.score - own.score) * (1 if found.objective in MAXIMIZED else -1)
    message = f"{found.objective} {found.score:.4g}, with the recipe's own values {own.score:.4g}"
    numbers = {"best": found.score, "recipe": own.score}
    return CheckResult("better_than_recipe", gain > 0, message, severity="warning", numbers=numbers)
