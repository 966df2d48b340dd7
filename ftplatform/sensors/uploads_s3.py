"""What an uploads prefix of a bucket holds: ``<prefix>/<tenant>/<dataset>/<file>``.

An object appears whole: a multi-part upload is listed when it was completed and never before. That a customer is between two
files can only be seen by waiting, so a dataset is taken when it was the same on two looks ``look_every`` seconds apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ftplatform.core.errors import Conflict, InvalidConfig, InvalidKey
from ftplatform.core.ids import DatasetKey
from ftplatform.sensors.uploads_folder import FileSet, complete_name


class S3Source:
    """Credentials are boto3's usual ones; they need ``ListBucket`` and ``GetObject`` on the prefix."""

    look_every = 30.0
    """Seconds: a look costs a LIST request per thousand objects."""

    def __init__(self, address: str, endpoint: str | None = None) -> None:
        try:
            import boto3
        except ImportError as error:
            raise InvalidConfig("s3:// uploads need the extra ftplatform[aws] (boto3 is not installed)") from error
        parts = urlsplit(address)
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._client: Any = boto3.client("s3", endpoint_url=endpoint)

    def scan(self) -> tuple[dict[str, FileSet], dict[str, str]]:
        """(datasets, refused names with the reason); a deeper name is no file of a dataset, as a subfolder is not."""
        found: dict[str, FileSet] = {}
        refused: dict[str, str] = {}
        for name, state in self._list(self._prefix).items():
            tenant, _, rest = name.partition("/")
            dataset, _, file = rest.partition("/")
            if not file or "/" in file or not complete_name(file):
                continue
            try:
                key = DatasetKey(tenant, dataset)
            except InvalidKey as error:
                refused[f"{tenant}/{dataset}"] = str(error)
                continue
            found.setdefault(str(key), {})[file] = state
        return found, refused

    def files(self, key: DatasetKey) -> FileSet:
        """The dataset's files as they are now."""
        listed = self._list(f"{self._prefix}{key}/")
        return {name: state for name, state in listed.items() if "/" not in name and complete_name(name) and name}

    def fetch(self, key: DatasetKey, name: str, scratch: Path) -> Path:
        """Download the object into ``scratch``, replacing what the call before left there.

        Raises:
            Conflict: the object is gone or was replaced meanwhile.
        """
        from botocore.exceptions import ClientError

        target = scratch / "object"
        try:
            self._client.download_file(self._bucket, f"{self._prefix}{key}/{name}", str(target))
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "412", "NoSuchKey", "PreconditionFailed"}:
                raise Conflict(f"{key}/{name} was deleted or replaced while it was being read") from error
            raise
        return target

    def _list(self, prefix: str) -> FileSet:
        """Name without ``prefix`` -> [size, ETag, time]. Every page; sorted by the service."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return {
            entry["Key"].removeprefix(prefix): [entry["Size"], entry["ETag"], entry["LastModified"].isoformat()]
            for page in pages
            for entry in page.get("Contents", ())
        }
