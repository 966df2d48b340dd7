"""Runs a command in a network namespace whose only way out is a wire to nowhere, and says whether anything was sent.

    unshare --net python closed_network.py LOG COMMAND...

A name look-up and a connection both need an address resolution on that wire first, so a single frame is an attempt. The first
thing done is one attempt of our own, which must be seen: a silent wire then means silence and not a deaf ear. LOG gets JSON:
``{"control": frames of our own attempt, "frames": frames of the command, "status": its exit status}``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ALL_PROTOCOLS = 0x0003


def main() -> int:
    log, command = Path(sys.argv[1]), sys.argv[2:]
    for line in (
        "link set lo up",
        "link add out0 type veth peer name out1",
        "link set out0 up",
        "link set out1 up",
        "addr add 10.255.0.2/24 dev out0",
        "route add default dev out0",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    # Router solicitations of IPv6 would be frames that nobody asked for.
    for name in ("out0", "out1"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    time.sleep(1.0)
    frames: list[bytes] = []
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    wire.bind(("out1", 0))
    threading.Thread(target=lambda: [frames.append(wire.recv(2048)) for _ in iter(int, 1)], daemon=True).start()

    with socket.socket() as probe:
        probe.settimeout(2.0)
        probe.connect_ex(("192.0.2.1", 443))
    time.sleep(2.0)
    control = len(frames)
    frames.clear()
    status = subprocess.run(command).returncode
    time.sleep(1.0)
    shown = sorted({frame[12:44].hex() for frame in frames})[:5]
    log.write_text(json.dumps({"control": control, "frames": len(frames), "first": shown, "status": status}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
