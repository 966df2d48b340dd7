"""``ft up`` as a person runs it: everything answers, and one signal ends all of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

FT = str(Path(sys.executable).parent / "ft")


def _processes_of(home: str) -> list[int]:
    """Processes that carry the home in their environment, this one apart."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if (
                f"FTPLATFORM_HOME={home}".encode() in path.read_bytes().split(b"\0")
                and int(path.parent.name) != os.getpid()
            ):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_everything(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    home = str(tmp_path / "up")
    serving = f"http://127.0.0.1:{_free_port()}"
    env = {**os.environ, "FTPLATFORM_HOME": home, "FTPLATFORM_SERVING": serving, "PYTHONUNBUFFERED": "1"}
    output = (tmp_path / "output").open("w+")
    up = subprocess.Popen([FT, "up"], env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while "Stop with Ctrl-C" not in (tmp_path / "output").read_text():
            assert up.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.5)
        assert httpx.get(f"{serving}/v1/models", trust_env=False).json()["object"] == "list"
        assert len(_processes_of(home)) > 4
        up.send_signal(number)
        assert up.wait(90) == 0
    finally:
        output.close()
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)
    assert _processes_of(home) == []
