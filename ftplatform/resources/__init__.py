"""What assets and sensors are given: the platform's parts, and the IO manager that passes manifests."""

from ftplatform.resources.manifest_io import ManifestIOManager
from ftplatform.resources.platform import Platform

__all__ = ["ManifestIOManager", "Platform"]
