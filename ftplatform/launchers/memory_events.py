"""Whether the kernel killed for memory: the count of such kills in the control group that this process lives in.

A payload is started in its launcher's group: in a pod that of the container, whose memory limit is the pod's.
"""

from __future__ import annotations

import re
from pathlib import Path

KILLED = "the kernel killed"
"""How a launcher says so in an attempt's message; what follows such an attempt is decided by it."""
_GROUPS = Path("/sys/fs/cgroup")


def oom_kills(groups: Path = _GROUPS, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Kills by the out-of-memory killer in our control group since it was made; None where the kernel does not tell.

    Version 2 counts in ``memory.events``, version 1 in ``memory.oom_control``. Inside a container the group's own path is
    often not visible, and its files lie at the root.
    """
    text = membership.read_text() if membership.exists() else ""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        name = "memory.oom_control" if "memory" in controllers.split(",") else "memory.events"
        root = groups / "memory" if name == "memory.oom_control" else groups
        if controllers and name == "memory.events":
            continue
        for folder in (root / path.lstrip("/"), root):
            if (folder / name).is_file() and (
                match := re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE)
            ):
                return int(match[1])
    return None
