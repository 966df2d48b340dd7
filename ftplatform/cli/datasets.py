"""``ft dataset``: one module per command, put together here."""

from __future__ import annotations

import typer

from ftplatform.cli import dataset_check, dataset_push, dataset_report, dataset_show, dataset_trace

app = typer.Typer(no_args_is_help=True)
app.command()(dataset_check.check)
app.command()(dataset_push.push)
app.command("list")(dataset_report.list_datasets)
app.command()(dataset_report.report)
app.command("show")(dataset_show.show_dataset)
app.command("trace")(dataset_trace.trace_dataset)
