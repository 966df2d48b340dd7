"""An S3 bucket as storage; a PUT is atomic, so no temporary names are needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftplatform.core.errors import InvalidConfig, NotFound


class S3Blobs:
    """``cache`` holds downloaded objects; they are immutable and content-addressed, so it never goes stale."""

    def __init__(self, bucket: str, prefix: str, cache: Path, endpoint: str | None = None) -> None:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise InvalidConfig("an s3:// store needs the extra ftplatform[aws] (boto3 is not installed)") from error
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._cache = cache
        # A network that swallows packets: boto3's own minute, times its five tries, is longer than a payload may be silent.
        # Objects are checked by their own digest; some servers answer for a part with the checksum of the whole.
        config = Config(connect_timeout=10, read_timeout=60, response_checksum_validation="when_required")
        self._client: Any = boto3.client("s3", endpoint_url=endpoint, config=config)

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)

    def put_path(self, name: str, path: Path) -> None:
        self._client.upload_file(str(path), self._bucket, self._prefix + name)

    def get(self, name: str) -> bytes:
        return self._read(name)

    def part(self, name: str, start: int, size: int) -> bytes:
        from botocore.exceptions import ClientError

        try:
            return self._read(name, Range=f"bytes={start}-{start + size - 1}")
        except ClientError as error:
            # How S3 says that nothing lies behind the end, or in an empty object.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
                return b""
            raise

    def _read(self, name: str, **more: str) -> bytes:
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, **more)["Body"]
        except self._client.exceptions.NoSuchKey:
            raise NotFound(f"{name} is not in the store s3://{self._bucket}/{self._prefix}") from None
        data: bytes = body.read()
        return data

    def get_path(self, name: str) -> Path:
        target = self._cache / name
        if not target.is_file():
            if not self.exists(name):
                raise NotFound(f"{name} is not in the store s3://{self._bucket}/{self._prefix}")
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
            os.close(handle)
            try:
                self._client.download_file(self._bucket, self._prefix + name, temporary)
                os.replace(temporary, target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        return target

    def exists(self, name: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
                return False
            raise
        return True

    def list(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                yield entry["Key"].removeprefix(self._prefix)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
