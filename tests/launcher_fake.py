"""A payload without torch whose ``seed`` says how it behaves; run by the launcher's tests in place of the real one."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time

from ftplatform.core.payload import PayloadResult, PayloadSpec, StarterSpec
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import PayloadIO, run_payload

DONE, WORK, HANG, ORPHAN, FULL, IGNORE = range(6)


def main(spec: PayloadSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    assert isinstance(spec, StarterSpec)
    io.progress("begun", step=0, of=spec.steps)
    io.heartbeat()
    (io.folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    if spec.seed == WORK:
        for step in range(spec.steps):
            io.progress("working", step=step + 1, of=spec.steps)
            time.sleep(0.1)
    if spec.seed == HANG:
        time.sleep(3600)
    if spec.seed == ORPHAN:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed == FULL:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        store.put_bytes(b"y" * 200_000)
    if spec.seed == IGNORE:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            io.heartbeat()
            time.sleep(0.1)
    return PayloadResult(outcome="done", message="made it", artifacts={"weights": store.put_bytes(b"weights")})


if __name__ == "__main__":
    sys.exit(run_payload(main))
