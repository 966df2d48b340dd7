"""The MLflow registry: every candidate as a model version with its verdict; the ``champion`` alias follows the catalog.

A version is found again by its tags (adapter and report digests), so registering the same result twice makes one version. The
catalog decides who is champion, by compare-and-swap, which MLflow's aliases do not have; ``repair`` makes MLflow agree with it.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from ftplatform.core.errors import NotFound

CHAMPION = "champion"
ADAPTER_TAG, REPORT_TAG, VERDICT_TAG = "ft.adapter", "ft.report", "ft.verdict"


class Registry:
    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def register(
        self, model: str, *, adapter: str, report: str, verdict: str, source: str, tags: dict[str, str]
    ) -> int:
        """Register a candidate and return its version; the same adapter and report again return the same version."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self.versions(model):
            if version["tags"].get(ADAPTER_TAG) == adapter and version["tags"].get(REPORT_TAG) == report:
                return int(version["version"])
        all_tags = {**tags, ADAPTER_TAG: adapter, REPORT_TAG: report, VERDICT_TAG: verdict}
        made = self._client.create_model_version(model, source=source, tags=all_tags)
        return int(made.version)

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Version numbers and tags, oldest first; empty for an unknown model."""
        found = self._client.search_model_versions(f"name='{model}'", max_results=10_000)
        return sorted(({"version": int(v.version), "tags": dict(v.tags)} for v in found), key=lambda v: v["version"])

    def champion(self, model: str) -> int | None:
        """The aliased version; read from the registered model, because a version search returns no aliases (MLflow 3.17)."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(model).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return int(aliases[CHAMPION]) if CHAMPION in aliases else None

    def repair(self, model: str, champion: int | None) -> bool:
        """Make the alias equal to the catalog's champion and return whether it had to change.

        Raises:
            NotFound: the catalog's champion is not a version of the registered model.
        """
        if self.champion(model) == champion:
            return False
        if champion is None:
            self._client.delete_registered_model_alias(model, CHAMPION)
        else:
            if champion not in {v["version"] for v in self.versions(model)}:
                raise NotFound(
                    f"version {champion} of {model} is the champion in the catalog but not in MLflow at {self._uri}"
                )
            self._client.set_registered_model_alias(model, CHAMPION, str(champion))
        return True
