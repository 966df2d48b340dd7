"""Runs of the real definitions in this process, on a home of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from ftplatform import assets
from ftplatform.catalog.jobs import Jobs
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import SourceFile
from ftplatform.partitions import datasets, recipes
from ftplatform.resources import ManifestIOManager, Platform
from ftplatform.resources.jobs import UPLOAD_TAG
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings

QUEUES = ("billing", "delivery", "technical")


class Bench:
    """The platform of ``FTPLATFORM_HOME`` with an ephemeral Dagster instance; every run goes through the real assets."""

    def __init__(self) -> None:
        self.parts = Parts(load_settings())
        self.instance = dg.DagsterInstance.ephemeral()
        platform = Platform()
        self.resources = {"platform": platform, "io_manager": ManifestIOManager(platform=platform)}

    @property
    def jobs(self) -> Jobs:
        return self.parts.catalog.jobs

    def push(self, dataset: str, files: dict[str, bytes | str]) -> int:
        """Record an upload and return its number."""
        key = DatasetKey.parse(dataset)
        self.instance.add_dynamic_partitions(datasets.name or "", [dataset])
        sources = []
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            sources.append(SourceFile(name=name, digest=self.parts.store.put_bytes(data), size=len(data)))
        return self.parts.catalog.datasets.upload(key, sources, "push")[0]

    def run(
        self,
        selection: Iterable[dg.AssetsDefinition],
        partition: str,
        tags: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        if "|" in partition:
            dataset, recipe = partition.split("|")
            self.instance.add_dynamic_partitions(datasets.name or "", [dataset])
            self.instance.add_dynamic_partitions(recipes.name or "", [recipe])
        return dg.materialize(
            assets.ALL,
            selection=list(selection),
            partition_key=partition,
            instance=self.instance,
            resources=self.resources,
            tags=tags or {},
            run_config=config,
            raise_on_error=False,
        )

    def data_run(self, dataset: str, files: dict[str, bytes | str]) -> dg.ExecuteInProcessResult:
        sequence = self.push(dataset, files)
        return self.run(assets.DATA, dataset, {UPLOAD_TAG: str(sequence)})

    def failure(self, result: dg.ExecuteInProcessResult) -> str:
        """What the failed step says to a person."""
        found = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        assert found, "the run did not fail"
        user = found[0].user_failure_data
        return str(user.description) if user else found[0].error_display_string

    def check(self, asset: str, name: str, partition: str) -> str | None:
        """Status of a check's newest evaluation for one partition."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        for entry in self.instance.event_log_storage.get_asset_check_execution_history(key, limit=50):
            if entry.event and entry.event.dagster_event.asset_check_evaluation_data.partition == partition:
                return entry.status.value
        return None


def chat_rows(count: int, start: int = 0) -> str:
    """Different questions, an answer that follows from a word of each."""
    lines = []
    for number in range(start, start + count):
        queue = QUEUES[number % len(QUEUES)]
        messages = [
            {"role": "user", "content": f"Ticket number {number}: a question about {queue} please"},
            {"role": "assistant", "content": queue},
        ]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines) + "\n"


def dataset_yaml(**settings: Any) -> str:
    return yaml.safe_dump(settings)


def write_all(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
