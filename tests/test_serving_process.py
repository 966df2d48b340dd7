"""``python -m ftplatform.serving`` as a process: killed hard, started anew, at the desired state again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
from serving_support import make_bench, wait_until

from ftplatform.catalog import open_catalog
from ftplatform.data.rendering.chat_format import load_chat_format


def test_a_killed_server_reaches_the_desired_state_again_and_gives_the_same_answer(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.adapter("ft:tiny:acme:support:aaaaaaaa", 1)
    name = "ft:tiny:acme:support:aaaaaaaa"
    catalog = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    catalog.serving.want(
        name, model="acme.support", kind="lora", weights=bench.adapters[name], base_weights=bench.base,
        template=load_chat_format(bench.base_folder).template.digest, fingerprint=bench.fingerprint(name),
    )  # fmt: skip
    catalog.serving.set_route("acme.support", [(name, 1.0)], "test")
    first = answer_of_a_new_process(tmp_path, signal.SIGKILL)
    second = answer_of_a_new_process(tmp_path, signal.SIGTERM)
    assert first["model"] == second["model"] == name
    assert first["choices"] == second["choices"]
    [engine] = catalog.serving.live_engines()
    assert engine["observed"]["reached"]
    assert engine["observed"]["models"][0]["state"] == "serving"


def answer_of_a_new_process(home: Path, end: signal.Signals) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "FTPLATFORM_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "FTPLATFORM_SERVING": "http://127.0.0.1:8100",
    }
    log = (home / "server.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "ftplatform.serving", "--port", str(port)], env=env, stdout=log, stderr=log
    )

    def reached() -> bool:
        assert process.poll() is None, (home / "server.log").read_text()
        try:
            return httpx.get(url + "/health").json()["reconciler"]["reached"]
        except httpx.TransportError:
            return False

    try:
        wait_until(reached, "the server reaches the desired state", 120)
        body = {
            "model": "acme.support",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0,
            "max_tokens": 12,
            "logprobs": True,
        }
        answer = httpx.post(url + "/v1/chat/completions", json=body, timeout=60).json()
        process.send_signal(end)
        # Having ended in order on SIGTERM, the server either sends the signal to itself again or returns.
        assert process.wait(30) in (-end, 0)
        return answer
    finally:
        process.kill()
        process.wait()
        log.close()
