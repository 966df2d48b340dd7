"""Whole jobs in real processes: with every outside connection cut, and on Postgres with S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from platform_support import chat_rows
from serving_support import write_base
from sqlalchemy import create_engine, text

HERE = Path(__file__).parent
RECIPE = {
    "name": "tiny",
    "version": 1,
    "base": "tiny",
    "lora": {"rank": 4},
    "training": {"learning_rate": 0.003, "max_steps": 3, "batch_size": 2, "max_length": 256},
}


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    write_base(tmp_path / "base")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "rows.jsonl").write_text(chat_rows(60))
    files = [str(tmp_path / name) for name in ("base", "recipe.yaml", "rows.jsonl")]
    return [sys.executable, str(HERE / "whole_job.py"), *files]


def _can_close_the_network() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    trial = ["unshare", "--net", "ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1"]
    return subprocess.run(trial, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_close_the_network(), reason="needs unshare, ip and the right to make a network namespace")
def test_a_whole_job_sends_nothing_outside(command: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    closed = ["unshare", "--net", sys.executable, str(HERE / "closed_network.py"), str(log), *command]
    run = subprocess.run(closed, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    seen = json.loads(log.read_text())
    assert seen["control"] > 0, "our own attempt was not seen, so silence would prove nothing"
    assert seen["status"] == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert seen["frames"] == 0, seen


@pytest.mark.usefixtures("s3_credentials")
def test_a_whole_job_on_postgres_and_s3(command: list[str], postgres_url: str, s3_endpoint: str) -> None:
    """The same code by configuration alone: catalog and Dagster in Postgres would differ in addresses only."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.execute(text("CREATE DATABASE whole_job"))
    settings = {
        "FTPLATFORM_CATALOG": postgres_url.replace("/postgres?", "/whole_job?", 1),
        "FTPLATFORM_STORE": "s3://ft/whole-job",
        "FTPLATFORM_S3_ENDPOINT": s3_endpoint,
    }
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "whole job: quarantined" in run.stdout
    home = Path(os.environ["FTPLATFORM_HOME"])
    assert not (home / "store").exists()
    assert not (home / "catalog.db").exists()
