"""The desired state as the catalog holds it."""

from __future__ import annotations

from ftplatform.catalog import Catalog
from ftplatform.serving.desired import DesiredState, Route, ServedModel


class CatalogSource:
    """Reads the served names that are wanted and the routes; two queries per call."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def read(self) -> DesiredState:
        models = [
            ServedModel(**{field: row[field] for field in ServedModel.model_fields})
            for row in self._catalog.serving.wanted()
        ]
        routes = [
            Route(model=row["model"], targets=tuple((name, weight) for name, weight in row["targets"]))
            for row in self._catalog.serving.routes()
        ]
        return DesiredState(models=tuple(models), routes=tuple(routes))
