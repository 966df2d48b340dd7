"""``ft train`` and ``ft job``: ask for a training, follow it, cancel it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ftplatform.catalog.jobs import PRIORITIES
from ftplatform.cli.common import add_partition, console, open_parts, show
from ftplatform.cli.local_run import materialize
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, LineKey, RecipeKey
from ftplatform.partitions import datasets, recipes
from ftplatform.resources.jobs import JOB_TAG

app = typer.Typer(no_args_is_help=True)


def train(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    recipe: Annotated[str, typer.Argument(help="slug@N")],
    queue: Annotated[
        bool, typer.Option("--queue", help="leave it to the daemon's job sensor instead of running here")
    ] = False,
    priority: Annotated[str, typer.Option(help="low, normal or high; counts in the queue")] = "normal",
) -> None:
    """Train a dataset with a recipe: plan, tokenize, train, evaluate, register, deploy."""
    if priority not in PRIORITIES:
        raise InvalidConfig(f"--priority {priority}: accepted are {', '.join(PRIORITIES)}")
    line = LineKey(DatasetKey.parse(dataset), RecipeKey.parse(recipe))
    parts = open_parts()
    parts.catalog.recipes.get(line.recipe)
    if parts.catalog.datasets.curated(line.dataset) is None:
        raise NotFound(
            f"dataset {line.dataset} has no accepted version yet: `ft dataset report {line.dataset}` says why"
        )
    add_partition(datasets, str(line.dataset))
    add_partition(recipes, str(line.recipe))
    job = parts.catalog.jobs.submit(line, "submitted", priority=priority, state="queued" if queue else "running")
    console.print(f"job {job}: {line}")
    if queue:
        return
    try:
        materialize("training_job", str(line), {JOB_TAG: job})
    except BaseException as error:
        # What fails before the first asset runs is settled by nobody else.
        if parts.catalog.jobs.get(job)["state"] == "running":
            parts.catalog.jobs.set_state(job, "failed", str(error) or type(error).__name__)
        raise
    row = parts.catalog.jobs.get(job)
    console.print(f"job {job}: {row['state']}, {row['message']}", markup=False)


@app.command("list")
def list_jobs() -> None:
    """Jobs, newest first."""
    rows = [
        (j["job"], f"{j['dataset']}|{j['recipe']}", j["reason"], j["state"], _age(j["created_at"]), j["message"][:80])
        for j in open_parts().catalog.jobs.all()
    ]
    show("jobs", ("job", "line", "reason", "state", "age", "message"), rows)


@app.command("show")
def show_job(job: Annotated[str, typer.Argument(help="ftjob-...")]) -> None:
    """A job and the attempts of its payloads."""
    parts = open_parts()
    for name, value in parts.catalog.jobs.get(job).items():
        console.print(f"{name:12} {value}", markup=False)
    rows = [
        (a["stage"], a["attempt"], a["outcome"], f"{a['finished_at'] - a['started_at']:.1f} s", a["message"])
        for a in parts.catalog.jobs.attempts(job)
    ]
    show("attempts", ("stage", "attempt", "outcome", "took", "message"), rows)


@app.command()
def cancel(job: Annotated[str, typer.Argument(help="ftjob-...")]) -> None:
    """Stop a job: a queued one at once, a running one within seconds, after a last checkpoint."""
    open_parts().catalog.jobs.cancel(job)
    console.print(f"job {job}: cancellation asked for")


def _age(moment: float) -> str:
    seconds = int(time.time() - moment)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
