"""What the commands share: the open platform, the Dagster instance of its home, tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ftplatform.cli.instance import prepare_home
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings

console = Console()


def open_parts() -> Parts:
    """The platform of ``FTPLATFORM_HOME``, which is made on first use."""
    settings = load_settings()
    prepare_home(settings)
    return Parts(settings)


def open_instance() -> dg.DagsterInstance:
    """The Dagster instance: ``DAGSTER_HOME``, else the home's own."""
    settings = load_settings()
    prepare_home(settings)
    os.environ.setdefault("DAGSTER_HOME", str(settings.home / "dagster"))
    return dg.DagsterInstance.get()


def add_partition(definition: dg.DynamicPartitionsDefinition, *keys: str) -> None:
    """Register partition keys, so that the asset can be materialized for them without the daemon."""
    with open_instance() as instance:
        assert definition.name is not None
        instance.add_dynamic_partitions(definition.name, list(keys))


def say_next(command: str) -> None:
    """A command to copy: never wrapped, and with the variables of this home."""
    console.print(f'Next: eval "$(ft env)" && {command}', soft_wrap=True, markup=False, highlight=False)


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(*(Column(name, overflow="fold") for name in columns), title=title, title_justify="left")
    for row in rows:
        # Text, because a customer's "[/INST]" would be read as markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
