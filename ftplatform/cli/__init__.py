"""``ft``: the command line. Every command works without a daemon; what needs one says so."""

from __future__ import annotations

import sys

import typer

from ftplatform.cli import adapters, bases, datasets, demo, jobs, plan, recipes, reproduce, search, services
from ftplatform.core.errors import FtError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
app.add_typer(datasets.app, name="dataset", help="Customers' data: check, push, list, report, show, trace.")
app.add_typer(recipes.app, name="recipe", help="Recipes: add, list, show, check, diff, schema, import.")
app.add_typer(bases.app, name="base", help="Base models: add, list.")
app.add_typer(adapters.app, name="adapter", help="Adapters: merge, export.")
app.add_typer(jobs.app, name="job", help="Jobs: list, show, cancel.")
app.command()(jobs.train)
app.command()(plan.plan)
app.command()(reproduce.reproduce)
app.command()(search.search)
app.command()(services.up)
app.command()(services.env)
app.command()(demo.demo)


def main() -> None:
    """Run the command line; the platform's own errors are shown as a sentence and not as a traceback."""
    try:
        app()
    except FtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
