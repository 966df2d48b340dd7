"""What both data assets need: the upload the run works for, and the dataset to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ftplatform.assets.reporting import readable_failures
from ftplatform.core.errors import Conflict
from ftplatform.core.ids import DatasetKey
from ftplatform.resources import Platform
from ftplatform.resources.jobs import UPLOAD_TAG, pin, run_tag
from ftplatform.resources.platform import Parts


@contextmanager
def data_run(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[tuple[Parts, DatasetKey]]:
    """One data run of a dataset at a time: two would mix the rows of one upload with the verdict on another."""
    with readable_failures():
        parts, key = platform.parts, DatasetKey.parse(context.partition_key)
        with parts.catalog.leases.hold(f"dataset:{key}", context.run_id, parts.settings.lease_seconds):
            yield parts, key


def upload_of(context: dg.AssetExecutionContext, parts: Parts, key: DatasetKey) -> dict[str, Any]:
    """The run's upload; without the tag the dataset's newest, pinned from now on for the steps that follow.

    Raises:
        Conflict: a newer upload is accepted already; running this one would bring the older rows back.
    """
    tag = run_tag(context.instance, context.run_id, UPLOAD_TAG)
    upload = parts.catalog.datasets.get_upload(key, int(tag) if tag else None)
    newest = parts.catalog.datasets.newest_accepted(key)
    if upload["seq"] < newest:
        raise Conflict(
            f"upload {upload['seq']} of {key} is older than upload {newest}, which is accepted; push the older files again to go back",
            retry_helps=False,
        )
    if tag is None:
        pin(context.instance, context.run_id, UPLOAD_TAG, str(upload["seq"]))
    return upload
