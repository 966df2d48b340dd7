"""From a store's address to the store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import StoreAddress
from ftplatform.store.base import ObjectStore
from ftplatform.store.local import LocalBlobs


def open_store(address: StoreAddress, cache: Path | None = None) -> ObjectStore:
    """Open ``file:///folder`` or ``s3://bucket/prefix``.

    Raises:
        InvalidConfig: for any other address.
    """
    parts = urlsplit(address.url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return ObjectStore(LocalBlobs(Path(unquote(parts.path))))
    if parts.scheme == "s3" and parts.netloc:
        from ftplatform.store.s3 import S3Blobs

        folder = cache or Path(tempfile.gettempdir()) / "ftplatform-object-cache"
        return ObjectStore(S3Blobs(parts.netloc, parts.path, folder, address.endpoint))
    raise InvalidConfig(f"store address {address.url!r}: accepted are file:///folder and s3://bucket/prefix")
