from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from platform_support import Bench, chat_rows

from ftplatform.core.dataset_config import RetrainConfig
from ftplatform.core.errors import Conflict
from ftplatform.core.ids import DatasetKey, LineKey
from ftplatform.core.recipe import parse_recipe
from ftplatform.resources import Platform
from ftplatform.resources.jobs import JOB_TAG
from ftplatform.sensors.jobs import jobs as jobs_sensor
from ftplatform.sensors.jobs import settle, settle_ended, submit_if_due
from ftplatform.sensors.retraining import due, startable
from ftplatform.sensors.uploads import uploads as uploads_sensor
from ftplatform.sensors.uploads_folder import FolderSource, at_rest, complete_name, scan
from ftplatform.sensors.uploads_take import intake_job, take

LINE = LineKey.parse("acme/support|tiny@1")


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Ticks:
    """The uploads sensor, tick after tick, with its cursor carried over."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.cursor = bench, None

    def tick(self) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=self.bench.instance, cursor=self.cursor)
        result = uploads_sensor(context, platform=Platform())
        self.cursor = result.cursor
        return list(result.run_requests)


def _drop(bench: Bench, dataset: str, name: str, content: str) -> Path:
    folder = bench.parts.settings.uploads / dataset
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(content)
    return path


def _judge(bench: Bench, seq: int) -> None:
    bench.parts.catalog.datasets.judge(seq, "accepted", "", None)


def test_a_file_is_taken_when_it_was_the_same_on_two_ticks(bench: Bench) -> None:
    ticks = Ticks(bench)
    path = _drop(bench, "acme/support", "rows.jsonl", chat_rows(5))
    assert ticks.tick() == []
    path.write_text(chat_rows(10))
    assert ticks.tick() == [], "it grew since the last tick"
    (request,) = ticks.tick()
    assert request.partition_key == "acme/support"
    assert request.run_key == "upload:1"
    _judge(bench, 1)
    assert ticks.tick() == []


def test_an_upload_in_progress_has_another_name(bench: Bench) -> None:
    ticks = Ticks(bench)
    for name in (".hidden.jsonl", "rows.jsonl.part", "rows.tmp"):
        _drop(bench, "acme/support", name, chat_rows(5))
    assert [ticks.tick() for _ in range(3)] == [[], [], []]
    assert not complete_name(".x")
    assert complete_name("partial.jsonl")


def test_every_set_of_files_is_a_version(bench: Bench) -> None:
    ticks = Ticks(bench)

    def settled() -> list[str]:
        ticks.tick()
        keys = [request.run_key for request in ticks.tick()]
        for upload in bench.parts.catalog.datasets.pending_uploads():
            _judge(bench, upload["seq"])
        return keys

    first = _drop(bench, "acme/support", "a.jsonl", chat_rows(5))
    assert settled() == ["upload:1"]
    _drop(bench, "acme/support", "b.jsonl", chat_rows(5, start=5))
    assert settled() == ["upload:2"], "another file"
    first.write_text(chat_rows(6))
    assert settled() == ["upload:3"], "the same name replaces"
    first.unlink()
    assert settled() == ["upload:4"], "deletion removes"
    newest = bench.parts.catalog.datasets.get_upload(DatasetKey("acme", "support"))
    assert [file["name"] for file in newest["files"]] == ["b.jsonl"]
    (first.parent / "b.jsonl").touch()
    assert settled() == [], "the same content with another time is no version"


def test_a_refused_upload_is_reported_once_and_never_retried(bench: Bench) -> None:
    ticks = Ticks(bench)
    _drop(bench, "acme/support", "rows.jsonl", "not json\n")
    ticks.tick()
    (request,) = ticks.tick()
    bench.parts.catalog.datasets.judge(int(request.tags["ft/upload"]), "refused", "bad", None)
    assert [ticks.tick() for _ in range(3)] == [[], [], []]


def test_an_upload_recorded_by_a_tick_that_died_is_still_run(bench: Bench) -> None:
    """The catalog says what is pending; the cursor of the dead tick was never saved."""
    bench.push("acme/support", {"rows.jsonl": chat_rows(5)})
    (request,) = Ticks(bench).tick()
    assert request.run_key == "upload:1"


@pytest.mark.parametrize("folder", ["ac|me/support", "acme/sup port", "Acme/support", "acme/.."])
def test_a_folder_that_is_no_key_is_ignored_and_said(
    bench: Bench, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    _drop(bench, folder, "rows.jsonl", chat_rows(5))
    ticks = Ticks(bench)
    assert [ticks.tick() for _ in range(3)] == [[], [], []]
    refused = json.loads(ticks.cursor or "{}")["refused"]
    assert len(refused) == (0 if folder.endswith("..") else 1)
    assert bench.parts.catalog.datasets.all() == []


def test_one_customer_at_work_does_not_hold_up_another(tmp_path: Path) -> None:
    for dataset in ("acme/a", "globex/b"):
        (tmp_path / dataset).mkdir(parents=True)
        (tmp_path / dataset / "rows.jsonl").write_text("x")
    before, _ = scan(tmp_path)
    os.utime(tmp_path / "acme/a/rows.jsonl", ns=(1, 1))
    after, _ = scan(tmp_path)
    assert list(at_rest(before, after)) == ["globex/b"]


def _job(state: str, curated: str, created_at: float = 0.0) -> dict[str, object]:
    return {"state": state, "curated": curated, "created_at": created_at, "dataset": "acme/a", "recipe": "r@1"}


def test_when_a_line_is_due() -> None:
    assert due(RetrainConfig(), "v1", [], 0) == "new-data"
    assert due(RetrainConfig(), None, [], 0) is None
    assert due(RetrainConfig(), "v1", [_job("queued", "v1")], 0) is None
    assert due(RetrainConfig(), "v2", [_job("running", "v1")], 0) is None, "one at a time"
    assert due(RetrainConfig(), "v1", [_job("quarantined", "v1")], 0) is None, (
        "the same version is not tried again by itself"
    )
    assert due(RetrainConfig(), "v2", [_job("promoted", "v1")], 0) == "new-data"
    assert due(RetrainConfig(on_new_data=False), "v2", [_job("promoted", "v1")], 0) is None
    weekly = RetrainConfig(on_new_data=False, every_hours=168)
    assert due(weekly, "v1", [_job("promoted", "v1", 1000.0)], 1000.0 + 168 * 3600) == "schedule"
    assert due(weekly, "v1", [_job("promoted", "v1", 1000.0)], 999.0 + 168 * 3600) is None


def test_one_job_of_a_line_starts_at_a_time() -> None:
    queued = [_job("queued", "v1"), _job("queued", "v2"), {**_job("queued", "v1"), "recipe": "other@1"}]
    assert [job["recipe"] for job in startable(queued, [])] == ["r@1", "other@1"]
    assert [job["recipe"] for job in startable(queued, [_job("running", "v0")])] == ["other@1"]


def test_new_data_queues_a_job_and_the_sensor_starts_it(bench: Bench) -> None:
    recipe = {
        "name": "tiny",
        "version": 1,
        "base": "tiny",
        "training": {"learning_rate": 0.1},
        "hardware": {"priority": "high"},
    }
    bench.parts.catalog.recipes.add(parse_recipe(recipe))
    files = {"rows.jsonl": chat_rows(60), "dataset.yaml": "train_with: [tiny@1]\n"}
    assert bench.data_run("acme/support", files).success
    result = jobs_sensor(dg.build_sensor_context(instance=bench.instance), platform=Platform())
    (request,) = result.run_requests
    (job,) = bench.jobs.all()
    assert job["reason"] == "new-data"
    assert request.run_key == f"{job['job']}:1"
    assert request.tags[JOB_TAG] == job["job"]
    assert request.tags["dagster/priority"] == "10"
    assert str(request.partition_key) == str(LINE)
    assert submit_if_due(bench.parts, LINE) is None, "once per version"
    assert bench.data_run("acme/support", {**files, "rows.jsonl": chat_rows(61)}).success
    assert submit_if_due(bench.parts, LINE) is None, "not while a job of the line is open"
    bench.jobs.set_state(job["job"], "quarantined")
    assert submit_if_due(bench.parts, LINE) == "new-data"


def test_a_recipe_taken_out_of_train_with_is_not_trained_by_itself(bench: Bench) -> None:
    recipe = {"name": "tiny", "version": 1, "base": "tiny", "training": {"learning_rate": 0.1}}
    bench.parts.catalog.recipes.add(parse_recipe(recipe))
    assert bench.data_run(
        "acme/support", {"rows.jsonl": chat_rows(60), "dataset.yaml": "train_with: [tiny@1]\n"}
    ).success
    assert bench.data_run("acme/support", {"rows.jsonl": chat_rows(61)}).success
    assert submit_if_due(bench.parts, LINE) is None


def test_the_job_of_a_dead_run_is_settled(bench: Bench) -> None:
    job = bench.jobs.submit(LINE, "submitted", state="running")
    done = bench.jobs.submit(LINE, "submitted", state="promoted")
    for each in (job, done):
        settle(bench.parts, dg.DagsterRun(job_name="training_job", tags={JOB_TAG: each}), "failed", "the run failed")
    assert bench.jobs.get(job)["state"] == "failed"
    assert bench.jobs.get(done)["state"] == "promoted"


def test_an_upload_whose_run_died_can_be_sent_again(bench: Bench) -> None:
    sequence = bench.push("acme/support", {"rows.jsonl": chat_rows(5)})
    settle(bench.parts, dg.DagsterRun(job_name="data_job", tags={"ft/upload": str(sequence)}), "failed", "disk full")
    assert bench.parts.catalog.datasets.get_upload(DatasetKey("acme", "support"))["state"] == "failed"
    assert bench.push("acme/support", {"rows.jsonl": chat_rows(5)}) > sequence


def test_a_job_that_only_runs_on_paper_is_settled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run says nothing; without this its line would never train again."""
    job = bench.jobs.submit(LINE, "submitted", state="running")
    assert settle_ended(bench.parts, bench.instance) == [], "it has just been started"
    later = SimpleNamespace(time=lambda: 4_000_000_000.0)
    monkeypatch.setattr(sys.modules["ftplatform.sensors.jobs"], "time", later)
    monkeypatch.setattr("ftplatform.catalog.leases.now", lambda: 4_000_000_000.0)
    assert settle_ended(bench.parts, bench.instance) == [job]
    assert bench.jobs.get(job)["state"] == "failed"


def test_each_upload_waits_for_the_one_before(bench: Bench) -> None:
    first = bench.push("acme/support", {"rows.jsonl": chat_rows(5)})
    second = bench.push("acme/support", {"rows.jsonl": chat_rows(6)})
    (request,) = Ticks(bench).tick()
    assert request.run_key == f"upload:{first}"
    bench.parts.catalog.leases.acquire("dataset:acme/support", "some-run", 60)
    assert Ticks(bench).tick() == [], "a data run is working on it"
    bench.parts.catalog.leases.release("dataset:acme/support", "some-run")
    _judge(bench, first)
    (request,) = Ticks(bench).tick()
    assert request.run_key == f"upload:{second}"


def test_a_link_into_another_tenants_folder_is_not_followed(bench: Bench) -> None:
    secret = _drop(bench, "globex/secret", "rows.jsonl", chat_rows(5))
    folder = bench.parts.settings.uploads / "acme" / "steal"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").symlink_to(secret)
    (folder.parent / "steal2").symlink_to(secret.parent)
    found, refused = scan(bench.parts.settings.uploads)
    assert found["acme/steal"] == {}
    assert "acme/steal2" not in found
    assert "acme/steal/rows.jsonl" in refused


def _run_intake(bench: Bench, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    assert request.job_name == intake_job.name
    return intake_job.execute_in_process(
        run_config=request.run_config, resources=bench.resources, instance=bench.instance, raise_on_error=False
    )


def test_a_set_too_large_for_a_tick_is_taken_by_a_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ftplatform.sensors.uploads"], "TICK_COST", 1000)
    ticks = Ticks(bench)
    _drop(bench, "acme/support", "rows.jsonl", chat_rows(5))
    ticks.tick()
    (request,) = ticks.tick()
    assert bench.parts.catalog.datasets.pending_uploads() == [], "the tick itself copies nothing"
    assert ticks.tick() == [], "it is asked for once"
    assert _run_intake(bench, request).success
    (request,) = ticks.tick()
    assert (request.job_name, request.run_key) == ("data_job", "upload:1")


def test_a_large_set_that_changed_before_its_run_is_left_for_the_newer_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded late, the older files would come after the newer ones and replace them."""
    monkeypatch.setattr(sys.modules["ftplatform.sensors.uploads"], "TICK_COST", 1000)
    ticks = Ticks(bench)
    _drop(bench, "acme/support", "rows.jsonl", chat_rows(5))
    ticks.tick()
    (old,) = ticks.tick()
    _drop(bench, "acme/support", "more.jsonl", chat_rows(5, start=5))
    ticks.tick()
    (new,) = ticks.tick()
    assert old.run_key != new.run_key
    assert _run_intake(bench, new).success
    late = _run_intake(bench, old)
    assert not late.success
    assert "changed while it was being taken in" in bench.failure(late)
    assert [len(u["files"]) for u in bench.parts.catalog.datasets.pending_uploads()] == [2]


def test_a_tick_takes_as_much_as_it_can_and_the_next_one_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ftplatform.sensors.uploads"], "TICK_COST", 150_000)
    for name in ("a", "b"):
        _drop(bench, f"acme/{name}", "rows.jsonl", chat_rows(5))
    ticks = Ticks(bench)
    ticks.tick()
    assert [request.partition_key for request in ticks.tick()] == ["acme/a"]
    assert [request.partition_key for request in ticks.tick()] == ["acme/a", "acme/b"]


def test_files_that_change_under_the_copy_are_not_recorded(bench: Bench) -> None:
    path = _drop(bench, "acme/support", "rows.jsonl", chat_rows(5))

    class Moving(FolderSource):
        def fetch(self, key: DatasetKey, name: str, scratch: Path) -> Path:
            os.utime(path, ns=(1, 1))
            return super().fetch(key, name, scratch)

    source = Moving(bench.parts.settings.uploads)
    with pytest.raises(Conflict):
        take(bench.parts, source, DatasetKey("acme", "support"), source.files(DatasetKey("acme", "support")), "folder")
    assert bench.parts.catalog.datasets.pending_uploads() == []


def test_a_folder_replaced_by_a_link_after_the_look_has_no_files(bench: Bench) -> None:
    secret = _drop(bench, "globex/secret", "rows.jsonl", chat_rows(5))
    (secret.parent.parent.parent / "acme").mkdir()
    (secret.parent.parent.parent / "acme" / "support").symlink_to(secret.parent)
    assert FolderSource(bench.parts.settings.uploads).files(DatasetKey("acme", "support")) == {}


def test_the_cursor_does_not_grow_with_the_files(bench: Bench) -> None:
    for number in range(50):
        _drop(bench, "acme/support", f"rows-{number}.jsonl", "x")
    ticks = Ticks(bench)
    ticks.tick()
    assert len(ticks.cursor or "") < 200
