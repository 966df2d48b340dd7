"""``ft train`` and ``ft job``: ask for a training, follow it, cancel it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ftplatform.catalog.jobs import PRIORITIES
from ftplatform.cli.common import add_partition, console, open_parts, show
from ftplatform.cli.local_run import run_job
from ftplatform.cli.progress import progress_of
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, LineKey, RecipeKey, new_job_id
from ftplatform.core.job_figures import JobFigures
from ftplatform.core.search_result import SearchResult
from ftplatform.partitions import datasets, recipes
from ftplatform.recipes.overrides import overridden, read_overrides
from ftplatform.resources.jobs import FIGURES, OVERRIDES, job_doc, latest_doc
from ftplatform.resources.platform import Parts

app = typer.Typer(no_args_is_help=True)


def train(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    recipe: Annotated[str, typer.Argument(help="slug@N")],
    queue: Annotated[
        bool, typer.Option("--queue", help="leave it to the daemon's job sensor instead of running here")
    ] = False,
    priority: Annotated[str, typer.Option(help="low, normal or high; counts in the queue")] = "normal",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a recipe field for this job alone, key=value; repeatable")
    ] = None,
    from_search: Annotated[
        bool, typer.Option("--from-search", help="with the best values of the line's newest search")
    ] = False,
) -> None:
    """Train a dataset with a recipe: plan, tokenize, train, evaluate, register, deploy."""
    if priority not in PRIORITIES:
        raise InvalidConfig(f"--priority {priority}: accepted are {', '.join(PRIORITIES)}")
    parts, line = ready_line(dataset, recipe)
    overrides = _overrides(parts, line, settings or [], from_search)
    job = new_job_id()
    if overrides:
        # Before the job can be seen: the daemon may start a queued one at once.
        parts.store.put_doc(job_doc(job, OVERRIDES), overrides)
    state = "queued" if queue else "running"
    parts.catalog.jobs.submit(line, "submitted", priority=priority, state=state, job=job)
    said = f" with {', '.join(f'{name}={value}' for name, value in overrides.items())}" if overrides else ""
    console.print(f"job {job}: {line}{said}", markup=False)
    if queue:
        return
    run_job(parts, "training_job", line, job)


def ready_line(dataset: str, recipe: str) -> tuple[Parts, LineKey]:
    """The open platform and the line, registered as a partition.

    Raises:
        NotFound: no such recipe, or no accepted version of the dataset.
    """
    line = LineKey(DatasetKey.parse(dataset), RecipeKey.parse(recipe))
    parts = open_parts()
    parts.catalog.recipes.get(line.recipe)
    if parts.catalog.datasets.curated(line.dataset) is None:
        raise NotFound(
            f"dataset {line.dataset} has no accepted version yet: `ft dataset report {line.dataset}` says why"
        )
    add_partition(datasets, str(line.dataset))
    add_partition(recipes, str(line.recipe))
    return parts, line


def _overrides(parts: Parts, line: LineKey, settings: list[str], from_search: bool) -> dict[str, Any]:
    """What the job changes of its recipe; a ``--set`` wins over what the search found."""
    found: dict[str, Any] = {}
    if from_search:
        document = parts.store.find_doc(latest_doc("search", str(line)))
        if document is None:
            raise NotFound(f"line {line} was never searched to an end: `ft search {line.dataset} {line.recipe}`")
        searched = SearchResult.model_validate(document["manifest"])
        found = dict(searched.parameters)
        if searched.curated != parts.catalog.datasets.curated(line.dataset):
            console.print(f"The search was on another version of {line.dataset} ({searched.curated[:12]}).")
    found |= read_overrides(settings)
    # Refused here, where a person reads it, and not by a run that was queued.
    overridden(parts.catalog.recipes.get(line.recipe), found)
    return found


@app.command("list")
def list_jobs() -> None:
    """Jobs, newest first; a training that runs on this machine says where it is and what time is left."""
    parts = open_parts()
    rows = [
        (
            j["job"],
            f"{j['dataset']}|{j['recipe']}",
            j["reason"],
            j["state"],
            _age(j["created_at"]),
            _message(parts, j)[:80],
        )
        for j in parts.catalog.jobs.all()
    ]
    show("jobs", ("job", "line", "reason", "state", "age", "message"), rows)


@app.command("show")
def show_job(job: Annotated[str, typer.Argument(help="ftjob-...")]) -> None:
    """A job, the attempts of its payloads, and what its training took."""
    parts = open_parts()
    row = parts.catalog.jobs.get(job)
    for name, value in (row | {"message": _message(parts, row)}).items():
        console.print(f"{name:12} {value}", markup=False)
    if found := parts.store.find_doc(job_doc(job, FIGURES)):
        show("training", ("what", "figure"), JobFigures.model_validate(found).words().items())
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


def _message(parts: Parts, row: dict[str, Any]) -> str:
    running = progress_of(parts.settings.home / "payloads", row["job"]) if row["state"] == "running" else None
    return running or str(row["message"])


@app.command()
def profile(
    job: Annotated[str, typer.Argument(help="ftjob-...")],
    into: Annotated[Path, typer.Option(help="file to write")] = Path("trace.json.gz"),
) -> None:
    """Write the profiler's trace of a job's training to a file, for Perfetto (ui.perfetto.dev) or chrome://tracing."""
    parts = open_parts()
    parts.catalog.jobs.get(job)
    found = parts.store.find_doc(job_doc(job, FIGURES)) or {}
    if not found.get("profile"):
        raise NotFound(
            f"job {job} has no profile: set training.profile_steps in its recipe, for example to 3, and train again"
        )
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_bytes(parts.store.get_bytes(found["profile"]))
    console.print(f"{into}: {into.stat().st_size / 1e6:.1f} MB", markup=False)


def _age(moment: float) -> str:
    seconds = int(time.time() - moment)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
