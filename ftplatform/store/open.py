"""From a store's address to the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import StoreAddress
from ftplatform.store.base import Blobs, ObjectStore
from ftplatform.store.local import LocalBlobs
from ftplatform.store.patience import PatientBlobs


def open_store(
    address: StoreAddress, cache: Path | None = None, waiting: Callable[[str], object] | None = None
) -> ObjectStore:
    """Open ``file:///folder`` or ``s3://bucket/prefix``.

    With ``waiting`` a storage that is away is waited for, and a sentence a try is told to it (``store.patience``).

    Raises:
        InvalidConfig: for any other address.
    """
    parts = urlsplit(address.url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return ObjectStore(_patient(LocalBlobs(Path(unquote(parts.path))), waiting))
    if parts.scheme == "s3" and parts.netloc:
        from ftplatform.store.s3 import S3Blobs

        folder = cache or Path(tempfile.gettempdir()) / "ftplatform-object-cache"
        return ObjectStore(_patient(S3Blobs(parts.netloc, parts.path, folder, address.endpoint), waiting))
    raise InvalidConfig(f"store address {address.url!r}: accepted are file:///folder and s3://bucket/prefix")


def _patient(blobs: Blobs, waiting: Callable[[str], object] | None) -> Blobs:
    return PatientBlobs(blobs, waiting) if waiting else blobs
