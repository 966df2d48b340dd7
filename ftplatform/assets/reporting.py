"""From the platform's values to Dagster's: checks, failures, pictures."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ftplatform.core.checks import CheckResult
from ftplatform.core.errors import FtError
from ftplatform.core.frozen import Frozen
from ftplatform.data.tables import markdown_table
from ftplatform.resources.platform import Parts


def check_specs(
    asset: str, partitions: dg.PartitionsDefinition, descriptions: dict[str, str], *, blocking: bool = True
) -> list[dg.AssetCheckSpec]:
    """Specs for the checks an asset computes itself.

    Each carries the asset's partitions: without them one tenant's pass would hide another's failure.
    """
    return [
        dg.AssetCheckSpec(name, asset=asset, description=text, blocking=blocking, partitions_def=partitions)
        for name, text in descriptions.items()
    ]


def to_dagster(check: CheckResult) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {"message": check.message, **check.numbers}
    if check.rows:
        metadata["rows"] = dg.MetadataValue.md(markdown_table(check.rows))
    severity = dg.AssetCheckSeverity.ERROR if check.severity == "error" else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(check_name=check.name, passed=check.passed, severity=severity, metadata=metadata)


def picture(png: bytes, alt: str) -> dg.MetadataValue:
    """A picture inside the metadata itself, so that the page shows it without another server."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def page(parts: Parts, digest: str, place: str, name: str) -> dg.MetadataValue:
    """An HTML page of the store on this machine's disk, where a browser opens it; the store has it for every other."""
    target = parts.settings.home / "data-docs" / place / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(parts.store.path(digest), target)
    return dg.MetadataValue.path(str(target))


def result(manifest: Frozen, metadata: dict[str, Any], *, reused: bool | None = None) -> dg.MaterializeResult:
    """The asset's output: the manifest as value, its content digest as data version."""
    if reused is not None:
        metadata = {**metadata, "reused": reused}
        if reused:
            metadata["note"] = "Same inputs, settings and code as before: nothing was worked again."
    version = dg.DataVersion(manifest.content_digest)
    return dg.MaterializeResult(value=manifest, metadata=metadata, data_version=version)


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn the platform's own errors into Dagster failures that are retried only where a retry can help."""
    try:
        yield
    except FtError as error:
        advice = "A retry can help." if error.retry_helps else "A retry does not help."
        raise dg.Failure(
            description=f"{error}", metadata={"advice": advice}, allow_retries=error.retry_helps
        ) from error
