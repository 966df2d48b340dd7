"""Uploads below a prefix of a bucket, against a real S3 endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from platform_support import Bench, chat_rows

from ftplatform import assets
from ftplatform.core.errors import Conflict, InvalidConfig
from ftplatform.core.ids import DatasetKey
from ftplatform.resources import Platform
from ftplatform.sensors.uploads import uploads as uploads_sensor
from ftplatform.sensors.uploads_s3 import S3Source
from ftplatform.sensors.uploads_take import intake_job
from ftplatform.settings import load_settings

KEY = DatasetKey("acme", "support")


class Bucket:
    def __init__(self, endpoint: str, prefix: str) -> None:
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self.prefix = prefix

    def put(self, name: str, content: str | bytes = "x") -> None:
        body = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket="ft", Key=f"{self.prefix}/{name}", Body=body)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket="ft", Key=f"{self.prefix}/{name}")


@pytest.fixture
def bucket(s3_endpoint: str, s3_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("FTPLATFORM_UPLOADS", f"s3://ft/{tmp_path.name}")
    monkeypatch.setenv("FTPLATFORM_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setattr(S3Source, "look_every", 0.0)
    return Bucket(s3_endpoint, tmp_path.name)


@pytest.fixture
def source(bucket: Bucket) -> S3Source:
    settings = load_settings()
    assert settings.uploads_s3 is not None
    return S3Source(settings.uploads_s3, settings.store.endpoint)


class Ticks:
    def __init__(self, bench: Bench) -> None:
        self.bench, self.cursor = bench, None

    def tick(self) -> list[dg.RunRequest]:
        result = uploads_sensor(
            dg.build_sensor_context(instance=self.bench.instance, cursor=self.cursor), platform=Platform()
        )
        self.cursor = result.cursor
        return list(result.run_requests)


def test_a_prefix_holds_datasets_as_a_folder_does(bucket: Bucket, source: S3Source) -> None:
    for name in ("acme/support/rows.jsonl", "acme/support/dataset.yaml", "acme/support/deep/rows.jsonl", "stray.txt"):
        bucket.put(name)
    for name in ("acme/support/.hidden", "acme/support/rows.jsonl.part", "acme/other/rows.tmp", "Acme/x/rows.jsonl"):
        bucket.put(name)
    found, refused = source.scan()
    assert {key: sorted(files) for key, files in found.items()} == {"acme/support": ["dataset.yaml", "rows.jsonl"]}
    assert list(refused) == ["Acme/x"]
    assert source.files(KEY) == found["acme/support"]


def test_every_page_of_the_listing_is_read(bucket: Bucket, source: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        bucket.put(f"acme/support/rows-{number}.jsonl")
    paginate = source._client.get_paginator("list_objects_v2").paginate

    class Small:
        def paginate(self, **options: str) -> object:
            return paginate(**options, PaginationConfig={"PageSize": 2})

    monkeypatch.setattr(source._client, "get_paginator", lambda _: Small())
    assert len(source.files(KEY)) == 5


def test_a_multi_part_upload_is_taken_when_it_is_complete(bucket: Bucket) -> None:
    bench = Bench()
    ticks = Ticks(bench)
    name, rows = f"{bucket.prefix}/acme/support/rows.jsonl", chat_rows(3).encode()
    padded = b" " * (5 * 1024 * 1024) + b"\n" + rows
    started = bucket.client.create_multipart_upload(Bucket="ft", Key=name)["UploadId"]
    parts = []
    for number, body in enumerate((padded[: 5 * 1024 * 1024], padded[5 * 1024 * 1024 :]), 1):
        done = bucket.client.upload_part(Bucket="ft", Key=name, UploadId=started, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": done["ETag"]})
        assert [ticks.tick() for _ in range(2)] == [[], []], "a part is no file"
    bucket.client.complete_multipart_upload(Bucket="ft", Key=name, UploadId=started, MultipartUpload={"Parts": parts})
    assert ticks.tick() == []
    (request,) = ticks.tick()
    assert request.run_key == "upload:1"
    (file,) = bench.parts.catalog.datasets.get_upload(KEY)["files"]
    assert (file["name"], file["size"]) == ("rows.jsonl", len(padded))
    assert bench.parts.store.get_bytes(file["digest"]) == padded
    assert list(bench.parts.settings.home.glob("take-*")) == [], "no copy is left on the disk"


def test_a_replaced_and_a_deleted_object_make_versions(bucket: Bucket) -> None:
    bench = Bench()
    ticks = Ticks(bench)

    def settled() -> list[str]:
        ticks.tick()
        keys = [request.run_key for request in ticks.tick()]
        for upload in bench.parts.catalog.datasets.pending_uploads():
            bench.parts.catalog.datasets.judge(upload["seq"], "accepted", "", None)
        return keys

    bucket.put("acme/support/a.jsonl", chat_rows(5))
    bucket.put("acme/support/b.jsonl", chat_rows(5, start=5))
    assert settled() == ["upload:1"]
    bucket.put("acme/support/a.jsonl", chat_rows(6))
    assert settled() == ["upload:2"]
    bucket.delete("acme/support/b.jsonl")
    assert settled() == ["upload:3"]
    assert [f["name"] for f in bench.parts.catalog.datasets.get_upload(KEY)["files"]] == ["a.jsonl"]
    bucket.put("acme/support/a.jsonl", chat_rows(6))
    assert settled() == [], "the same content put again is no version"


def test_a_large_object_is_copied_by_a_run_and_not_by_the_tick(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ftplatform.sensors.uploads"], "TICK_COST", 1000)
    bench = Bench()
    ticks = Ticks(bench)
    bucket.put("acme/support/rows.jsonl", chat_rows(60))
    ticks.tick()
    (request,) = ticks.tick()
    result = intake_job.execute_in_process(
        run_config=request.run_config, resources=bench.resources, instance=bench.instance
    )
    assert result.success
    (request,) = ticks.tick()
    bench.instance.add_dynamic_partitions("dataset", ["acme/support"])
    assert bench.run(assets.DATA, "acme/support", request.tags).success


def test_the_prefix_is_looked_at_once_in_a_while(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Source, "look_every", 3600.0)
    bench = Bench()
    ticks = Ticks(bench)
    bucket.put("acme/support/rows.jsonl", chat_rows(5))
    assert [ticks.tick() for _ in range(3)] == [[], [], []]
    sequence = bench.push("acme/other", {"rows.jsonl": chat_rows(5)})
    assert [request.run_key for request in ticks.tick()] == [f"upload:{sequence}"], "a push does not wait for the look"


def test_an_object_that_is_gone_is_a_conflict(source: S3Source, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="deleted or replaced"):
        source.fetch(KEY, "rows.jsonl", tmp_path)


@pytest.mark.parametrize("value", ["s3://", "gs://bucket/x", "https://host/x"])
def test_an_address_that_is_no_prefix_is_refused(value: str) -> None:
    with pytest.raises(InvalidConfig, match="FTPLATFORM_UPLOADS"):
        load_settings({"FTPLATFORM_UPLOADS": value})


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    settings = load_settings({"FTPLATFORM_UPLOADS": str(tmp_path)})
    assert (settings.uploads, settings.uploads_s3) == (tmp_path, None)
    settings = load_settings({"FTPLATFORM_HOME": str(tmp_path), "FTPLATFORM_UPLOADS": "s3://bucket"})
    assert (settings.uploads, settings.uploads_s3) == (tmp_path / "uploads", "s3://bucket")
