"""``ft search``: better values for some of a recipe's fields, found by trials; and what was found."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ftplatform.cli.common import console, open_parts, show
from ftplatform.cli.jobs import ready_line
from ftplatform.cli.local_run import run_job
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import LineKey
from ftplatform.core.search_result import best_of
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.search.documents import newest_study
from ftplatform.search.table import as_yaml, trial_rows

SHOW = "show"


def search(
    names: Annotated[
        list[str], typer.Argument(help="DATASET RECIPE: tenant/name and slug@N; after the word show, what was found")
    ],
    trials: Annotated[int | None, typer.Option(help="trials in all, in place of the recipe's")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object, and progress to standard error")
    ] = False,
) -> None:
    """Try values of the recipe's search space on the dataset here; with `show`, what was tried so far, also while it runs.

    Stopped or killed, the same command goes on where it was.
    """
    shows, line = _read(names)
    if as_json:
        # Standard output is for the object alone.
        console.stderr = True
    if shows:
        if trials is not None:
            raise InvalidConfig("--trials belongs to a search, and not to `ft search show`")
        parts = open_parts()
    else:
        parts, line = ready_line(str(line.dataset), str(line.recipe))
        job = parts.catalog.jobs.submit(line, "search", state="running")
        console.print(f"job {job}: search on {line}", markup=False)
        run_job(parts, "search_job", line, job, {"search": {"trials": trials}} if trials is not None else None)
    _tell(parts, line, as_json)


def _read(names: list[str]) -> tuple[bool, LineKey]:
    shows = names[0] == SHOW
    rest = names[1:] if shows else names
    text = "|".join(rest)
    if text.count("|") != 1:
        raise InvalidConfig(f"ft search takes [show] DATASET RECIPE; found {' '.join(names)}")
    return shows, LineKey.parse(text)


def _tell(parts: Parts, line: LineKey, as_json: bool) -> None:
    newest = newest_study(parts.store, line)
    if newest is None:
        raise NotFound(f"line {line} was never searched: `ft search {line.dataset} {line.recipe}`")
    study, objective = newest
    document = parts.store.find_doc(latest_doc("search", str(line)))
    ended = document["manifest"] if document and document["manifest"]["study"] == study.key else None
    found = study.trials()
    best = best_of(tuple(found), objective)
    if as_json:
        # Not through rich, which would wrap and colour.
        unfinished = {"study": study.key, "objective": objective, "trials": [t.model_dump(mode="json") for t in found]}
        print(json.dumps(ended or unfinished, indent=2))
        return
    rows = trial_rows(found, objective)
    columns = tuple(rows[0]) if rows else ("trial",)
    show(f"search on {line}", columns, [tuple(row[name] for name in columns) for row in rows])
    if best is None:
        console.print("No trial came to its end yet.")
        return
    console.print(f"best: trial {best.number}, {objective} {best.score:.4g}; {_spent(found)}", highlight=False)
    if ended and ended["importance"]:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in ended["importance"].items())
        console.print(f"importance: {shares}", highlight=False)
    if ended and ended["stopped"]:
        console.print(f"ended before all trials: {ended['stopped']}", markup=False, highlight=False)
    console.print(f"\n{as_yaml(best.parameters)}", markup=False, highlight=False)
    if ended:
        console.print(f"Next: ft train {line.dataset} {line.recipe} --from-search", soft_wrap=True, highlight=False)


def _spent(trials: list[Any]) -> str:
    minutes = 60 * sum(trial.hours for trial in trials)
    return f"{minutes:.1f} minutes of payloads, price {sum(trial.price for trial in trials):.4g}"
