"""The platform's parts, opened when first used: settings, catalog, store, launcher, hardware, registry."""

from __future__ import annotations

from functools import cached_property

import dagster as dg

from ftplatform.catalog import Catalog, open_catalog
from ftplatform.launchers.local import LocalLauncher
from ftplatform.planning.hardware import HardwareCatalogue, load_hardware
from ftplatform.serving.registry import Registry
from ftplatform.settings import Settings, load_settings
from ftplatform.store import ObjectStore, open_store


class Parts:
    """The open parts; one per settings, shared by the assets of a process and usable without Dagster."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def catalog(self) -> Catalog:
        return open_catalog(self.settings.catalog_url)

    @cached_property
    def store(self) -> ObjectStore:
        return open_store(self.settings.store, self.settings.home / "object-cache")

    @cached_property
    def launcher(self) -> LocalLauncher:
        # In a cluster the step's own pod is the GPU pod, so the payload is a local process there too.
        return LocalLauncher(self.settings.home / "payloads", self.settings.payload_python)

    @cached_property
    def hardware(self) -> HardwareCatalogue:
        return load_hardware(self.settings.hardware)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings.tracking_uri)


class Platform(dg.ConfigurableResource):
    """Access to the parts; configured by the environment alone, so that one image runs everywhere."""

    @cached_property
    def parts(self) -> Parts:
        return Parts(load_settings())
