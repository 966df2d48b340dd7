"""The platform's parts, opened when first used: settings, catalog, store, launcher, hardware, registry."""

from __future__ import annotations

import hmac
from functools import cached_property

import dagster as dg
import yaml

from ftplatform.catalog import Catalog, open_catalog
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.tenant_config import TenantConfig, parse_tenant_config
from ftplatform.data.workers import RayCluster, Workers
from ftplatform.launchers.local import LocalLauncher
from ftplatform.planning.hardware import HardwareCatalogue, load_hardware
from ftplatform.resources.secret import deployment_key
from ftplatform.serving.registry import Registry
from ftplatform.settings import Settings, load_settings
from ftplatform.store import ObjectStore, open_store

WORTH_WORKERS = 16 << 20
"""Bytes of an upload from which worker processes pay for their start of one to two seconds."""


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

    def tenant_config(self, tenant: str) -> TenantConfig:
        """What the platform's operator set for all datasets of the tenant; nothing without a file.

        Raises:
            InvalidConfig: the file cannot be used.
        """
        path = self.settings.tenants / f"{tenant}.yaml"
        if not path.exists():
            return TenantConfig()
        try:
            return parse_tenant_config(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"{path} is not YAML: {error}") from error

    def secret(self, tenant: str) -> bytes:
        """32 bytes of the tenant's own, derived from the deployment's key: one tenant's pseudonyms say nothing of another's."""
        return hmac.digest(deployment_key(self.settings), tenant.encode(), "sha256")

    def workers(self, size: int) -> Workers:
        """Who reads an upload of ``size`` bytes: this process alone, where starting others would cost more."""
        if size < WORTH_WORKERS:
            return 1
        if self.settings.ray:
            return RayCluster(self.settings.ray, self.settings.data_workers)
        return self.settings.data_workers


class Platform(dg.ConfigurableResource):
    """Access to the parts; configured by the environment alone, so that one image runs everywhere."""

    @cached_property
    def parts(self) -> Parts:
        return Parts(load_settings())
