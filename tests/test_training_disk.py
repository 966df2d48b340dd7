from __future__ import annotations

import sys
from pathlib import Path

from training_support import store_in, tiny_spec

from ftplatform.core.payload import PayloadSpec
from ftplatform.launchers import LocalLauncher


def limited(spec: PayloadSpec, path: Path) -> list[str]:
    """The real payload under a file size limit of 200 x 512 bytes: the model fits, its optimizer's state does not."""
    shell = ["/bin/sh", "-c", 'ulimit -f 200; exec "$@"', "sh"]
    return [*shell, sys.executable, "-m", "ftplatform.training", str(path)]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_no_checkpoint_and_says_so(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full", steps=20, checkpoint_every=5)
    before = {path for path in (tmp_path / "store").rglob("*") if path.is_file()}
    local = LocalLauncher(tmp_path / "payloads", command=limited)
    result = local.wait(local.submit(spec), lambda progress: None, lambda: False, poll=0.1)
    assert result.outcome == "failed"
    assert "the disk is full" in result.message
    assert "a retry helps" in result.message
    store = store_in(tmp_path)[1]
    assert store.list_docs("checkpoints") == []
    written = {path for path in (tmp_path / "store").rglob("*") if path.is_file()} - before
    assert {path.parent.name for path in written} == {"fences"}
    unlimited = LocalLauncher(tmp_path / "payloads")
    again = unlimited.submit(spec)
    assert (again.attempt, unlimited.wait(again, lambda progress: None, lambda: False, poll=0.1).outcome) == (2, "done")
