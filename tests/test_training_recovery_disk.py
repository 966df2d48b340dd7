"""A file system that is full for real (ENOSPC), where `test_training_disk.py` limits the size of files (EFBIG)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training_support import store_in, tiny_spec

from ftplatform.launchers import LocalLauncher

pytestmark = pytest.mark.slow


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """``folder`` on a file system of its own; skips where this process may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system of a few hundred kB cannot be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("place", "size"), [("payloads", "400k"), ("store", "400k")])
def test_a_full_disk_leaves_no_half_checkpoint_and_a_larger_one_lets_the_next_attempt_finish(
    tmp_path: Path, place: str, size: str
) -> None:
    """The payload's own disk fills while a checkpoint is written to it, the store's while one is committed."""
    with small_disk(tmp_path / place, size):
        spec = tiny_spec(tmp_path, kind="full", steps=20, checkpoint_every=5)
        local, store = LocalLauncher(tmp_path / "payloads"), store_in(tmp_path)[1]
        result = local.wait(local.submit(spec), lambda progress: None, lambda: False, poll=0.1)
        assert result.outcome == "failed"
        assert "the disk is full" in result.message
        assert "a retry helps" in result.message
        assert store.list_docs("checkpoints") == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / place)], check=True)
        again = local.submit(spec)
        finished = local.wait(again, lambda progress: None, lambda: False, poll=0.1)
        assert (again.attempt, finished.outcome) == (2, "done"), finished.message
