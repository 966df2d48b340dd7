"""The home's own Dagster instance and workspace, written from the project's ``dagster.yaml``."""

from __future__ import annotations

import os
from typing import Any

import yaml

from ftplatform.core.errors import InvalidConfig
from ftplatform.settings import PROJECT, Settings

BARE_BASE = ".ftplatform"
"""Where the project's dagster.yaml puts everything when it is used as it is, relative to the working directory."""


def prepare_home(settings: Settings) -> None:
    """Make the home's folders and its ``dagster/dagster.yaml``; a file that is there and differs is brought up to date."""
    folder = settings.home / "dagster"
    for path in (folder, settings.uploads):
        path.mkdir(parents=True, exist_ok=True)
    bare_file = PROJECT / "dagster.yaml"
    if not bare_file.exists():
        # An installed package has no project beside it: the deployment brings its own instance file.
        if "DAGSTER_HOME" not in os.environ:
            raise InvalidConfig(
                "there is no dagster.yaml beside the package: set DAGSTER_HOME to the folder of the deployment's own"
            )
        return
    bare = yaml.safe_load(bare_file.read_text(encoding="utf-8"))
    config = _rebase(bare, str(settings.home))
    config["concurrency"]["pools"]["default_limit"] = settings.training_slots
    text = "# Written by ft from the project's dagster.yaml.\n" + yaml.safe_dump(config, sort_keys=False)
    target = folder / "dagster.yaml"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def environment(settings: Settings) -> dict[str, str]:
    """The variables with which Dagster's own commands use this home."""
    return {"DAGSTER_HOME": str(settings.home / "dagster"), "FTPLATFORM_HOME": str(settings.home)}


def _rebase(value: Any, home: str) -> Any:
    if isinstance(value, dict):
        return {key: _rebase(inner, home) for key, inner in value.items()}
    if isinstance(value, str) and (value == BARE_BASE or value.startswith(f"{BARE_BASE}/")):
        return home + value.removeprefix(BARE_BASE)
    return value
