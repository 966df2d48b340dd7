from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import launcher_fake as fake
import pytest

from ftplatform.core.payload import PayloadResult, PayloadSpec, StarterSpec, StoreAddress, Tracking, TrainSpec
from ftplatform.launchers import Handle, LocalLauncher, Running
from ftplatform.launchers.devices import choose, visible_devices
from ftplatform.launchers.environment import MARK, clean_environment
from ftplatform.launchers.processes import Process, marked, parse_stat
from ftplatform.store import open_store

FAKE = Path(fake.__file__)


def command(spec: PayloadSpec, path: Path) -> list[str]:
    return [sys.executable, str(FAKE), str(path)]


def spec_for(folder: Path, behaviour: int, key: str = "b" * 64, steps: int = 3) -> StarterSpec:
    address = StoreAddress(url=(folder / "store").as_uri())
    return StarterSpec(key=key, store=address, seed=behaviour, steps=steps, threads=1)


def launcher(folder: Path, heartbeat_timeout: float = 60.0) -> LocalLauncher:
    return LocalLauncher(folder / "payloads", heartbeat_timeout=heartbeat_timeout, kill_grace=1.0, command=command)


def ended(local: LocalLauncher, handle: Handle) -> PayloadResult:
    return local.wait(handle, lambda progress: None, lambda: False, poll=0.05)


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def starts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "payloads" / "starts.jsonl").read_text().splitlines()]


def begun(handle: Handle) -> bool:
    return (handle.folder / "environment.json").exists()


def test_a_payload_ends_with_its_result_and_tells_its_progress(tmp_path: Path) -> None:
    local, heard = launcher(tmp_path), []
    handle = local.submit(spec_for(tmp_path, fake.WORK, steps=10))
    result = local.wait(handle, heard.append, lambda: False, poll=0.02)
    assert result.outcome == "done"
    assert {"begun", "working"} >= {line["message"] for line in heard} >= {"working"}
    assert marked(MARK, str(handle.folder)) == []


def test_a_secret_of_the_parent_does_not_reach_the_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_PG_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    local = launcher(tmp_path)
    handle = local.submit(spec_for(tmp_path, fake.DONE))
    ended(local, handle)
    seen = json.loads((handle.folder / "environment.json").read_text())
    assert "secret" not in seen.values()
    assert (seen["NCCL_DEBUG"], seen["OMP_NUM_THREADS"], seen["HF_HUB_OFFLINE"]) == ("INFO", "1", "1")


def test_credentials_pass_only_to_the_payload_that_needs_them(tmp_path: Path) -> None:
    source = {"AWS_SECRET_ACCESS_KEY": "a", "MLFLOW_TRACKING_TOKEN": "m", "HOME": "/h"}
    on_s3 = spec_for(tmp_path, 0).model_copy(update={"store": StoreAddress(url="s3://bucket/x")})
    assert "AWS_SECRET_ACCESS_KEY" in clean_environment(source, on_s3, tmp_path, tmp_path)
    assert "MLFLOW_TRACKING_TOKEN" not in clean_environment(source, on_s3, tmp_path, tmp_path)
    tracked = TrainSpec.model_construct(
        store=StoreAddress(url="file:///s"), threads=1, tracking=Tracking(uri="https://t", experiment="e", run_name="r")
    )
    passed = clean_environment(source, tracked, tmp_path, tmp_path)
    assert passed["MLFLOW_TRACKING_TOKEN"] == "m"
    assert "AWS_SECRET_ACCESS_KEY" not in passed


def test_living_payloads_have_gpus_of_their_own_until_there_are_none_left(tmp_path: Path) -> None:
    def local() -> LocalLauncher:
        return LocalLauncher(tmp_path / "payloads", kill_grace=1.0, command=command, devices=lambda: ["0", "MIG-a"])

    def given(handle: Handle) -> str:
        until(lambda: begun(handle))
        until(lambda: (handle.folder / "environment.json").read_text().endswith("}"))
        return json.loads((handle.folder / "environment.json").read_text())["CUDA_VISIBLE_DEVICES"]

    # Each from a launcher of its own, as different steps and people start them.
    first, second, third = (local().submit(spec_for(tmp_path, fake.HANG, key=letter * 64)) for letter in "abc")
    assert [given(handle) for handle in (first, second, third)] == ["0", "MIG-a", "0"]
    for handle in (first, third):
        local().cancel(handle, grace=0.1)
    assert given(local().submit(spec_for(tmp_path, fake.HANG, key="d" * 64))) == "0"
    for handle in local().running():
        local().cancel(handle, grace=0.1)


def test_a_job_over_several_gpus_gets_the_free_ones() -> None:
    assert choose(["0", "1", "2", "3"], ["1"], 2) == ["0", "2"]
    assert choose(["0", "1", "2", "3"], ["0", "1", "2"], 2) == ["0", "3"]
    assert choose([], [], 2) == []


@pytest.mark.parametrize(("told", "found"), [("2, 5", ["2", "5"]), ("", [])])
def test_gpus_are_those_that_the_environment_allows(
    monkeypatch: pytest.MonkeyPatch, told: str, found: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert visible_devices() == found


def test_a_second_submit_finds_the_running_payload_and_a_later_one_the_done_one(tmp_path: Path) -> None:
    local, spec = launcher(tmp_path), spec_for(tmp_path, fake.WORK, steps=10)
    first = local.submit(spec)
    assert launcher(tmp_path).submit(spec) == first
    ended(local, first)
    assert launcher(tmp_path).submit(spec) == first
    assert launcher(tmp_path).submit(spec, attempt=1) == first
    assert len(starts(tmp_path)) == 1


def test_done_work_is_done_again_when_the_store_lost_it(tmp_path: Path) -> None:
    local, spec = launcher(tmp_path), spec_for(tmp_path, fake.DONE)
    digest = ended(local, local.submit(spec)).artifacts["weights"]
    next((tmp_path / "store").rglob(digest)).unlink()
    handle = local.submit(spec)
    assert handle.attempt == 2
    assert ended(local, handle).outcome == "done"
    assert open_store(spec.store).has(digest)


def _submit_and_stay(folder: Path) -> None:
    launcher(folder).submit(spec_for(folder, fake.WORK, steps=20))
    time.sleep(600)


def test_the_payload_outlives_a_killed_submitter_and_is_found_again(tmp_path: Path) -> None:
    submitter = multiprocessing.get_context("fork").Process(target=_submit_and_stay, args=(tmp_path,))
    submitter.start()
    until(lambda: (tmp_path / "payloads" / "starter-bbbbbbbbbbbbbbbb" / "0001" / "environment.json").exists())
    assert submitter.pid
    os.kill(submitter.pid, signal.SIGKILL)
    submitter.join()
    local = launcher(tmp_path)
    handle = local.submit(spec_for(tmp_path, fake.WORK, steps=20))
    assert isinstance(local.status(handle), Running)
    assert ended(local, handle).outcome == "done"
    assert [one["attempt"] for one in starts(tmp_path)] == [1]


def _submit(folder: Path) -> None:
    launcher(folder).submit(spec_for(folder, fake.WORK, steps=20))


def test_many_submitters_at_once_start_one_payload(tmp_path: Path) -> None:
    crowd = [multiprocessing.get_context("fork").Process(target=_submit, args=(tmp_path,)) for _ in range(6)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
        assert one.exitcode == 0
    assert len(starts(tmp_path)) == 1
    local = launcher(tmp_path)
    assert ended(local, local.submit(spec_for(tmp_path, fake.WORK, steps=20))).outcome == "done"


def test_a_payload_that_dies_is_failed_and_leaves_no_orphan(tmp_path: Path) -> None:
    local, spec = launcher(tmp_path), spec_for(tmp_path, fake.ORPHAN)
    handle = local.submit(spec)
    result = ended(local, handle)
    assert result.outcome == "failed"
    assert "ended without a result" in result.message
    assert "a retry helps" in result.message
    assert marked(MARK, str(handle.folder)) == []
    assert local.status(handle) == result
    assert local.submit(spec, attempt=1) == handle
    again = local.submit(spec)
    assert again.attempt == 2
    ended(local, again)


def test_a_hung_payload_shows_its_stacks_and_is_killed(tmp_path: Path) -> None:
    local = launcher(tmp_path, heartbeat_timeout=1.0)
    handle = local.submit(spec_for(tmp_path, fake.HANG))
    until(lambda: begun(handle))
    result = ended(local, handle)
    assert result.outcome == "failed"
    assert "no sign of life" in result.message
    assert "launcher_fake.py" in local.logs(handle)
    assert marked(MARK, str(handle.folder)) == []


def test_a_death_that_cannot_be_written_down_is_told_all_the_same(tmp_path: Path) -> None:
    local = launcher(tmp_path)
    handle = local.submit(spec_for(tmp_path, fake.ORPHAN))
    (handle.folder / "result.json.launcher").mkdir()
    result = ended(local, handle)
    assert result.outcome == "failed"
    assert "could not be written down" in result.message
    assert local.status(handle) == result


def test_an_announced_silence_is_not_a_hang(tmp_path: Path) -> None:
    local = launcher(tmp_path, heartbeat_timeout=0.2)
    handle = local.submit(spec_for(tmp_path, fake.HANG))
    until(lambda: begun(handle))
    (handle.folder / "heartbeat").write_text("300\n")
    for _ in range(10):
        assert isinstance(local.status(handle), Running)
        time.sleep(0.1)
    local.cancel(handle, grace=2.0)


def test_cancel_lets_a_payload_end_by_itself(tmp_path: Path) -> None:
    local = launcher(tmp_path)
    handle = local.submit(spec_for(tmp_path, fake.WORK, steps=1000))
    until(lambda: begun(handle))
    result = local.wait(handle, lambda progress: None, lambda: True, poll=0.05, grace=20.0)
    assert result.outcome == "preempted"


def test_cancel_kills_a_payload_that_does_not_listen(tmp_path: Path) -> None:
    local = launcher(tmp_path)
    handle = local.submit(spec_for(tmp_path, fake.IGNORE))
    until(lambda: begun(handle))
    local.cancel(handle, grace=0.5)
    assert marked(MARK, str(handle.folder)) == []
    status = local.status(handle)
    assert isinstance(status, PayloadResult)
    assert status.outcome == "failed"


def test_a_full_disk_gives_a_readable_failure_and_nothing_half_visible(tmp_path: Path) -> None:
    local, spec = launcher(tmp_path), spec_for(tmp_path, fake.FULL)
    result = ended(local, local.submit(spec))
    assert result.outcome == "failed"
    assert "file size limit" in result.message
    assert "a retry helps" in result.message
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_recycled_pid_is_not_mistaken_for_the_payload() -> None:
    here = parse_stat(Path("/proc/self/stat").read_text())
    assert here.alive
    assert not Process(here.pid, here.started - 1).alive


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    process = parse_stat(Path(f"/proc/{child.pid}/stat").read_text())
    assert not process.alive
    child.wait()


def test_an_attempt_that_never_came_to_start_is_followed_by_the_next(tmp_path: Path) -> None:
    local, spec = launcher(tmp_path), spec_for(tmp_path, fake.DONE)
    handle = local.submit(spec)
    ended(local, handle)
    half = handle.folder.parent / "0002"
    half.mkdir()
    assert ended(local, local.submit(spec, attempt=2)).outcome == "failed"
    assert ended(local, local.submit(spec, attempt=3)).outcome == "done"
