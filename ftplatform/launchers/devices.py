"""Which GPUs of this machine an attempt gets: those that no living one has."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/gpus")
"""A folder per GPU, wherever NVIDIA's driver is loaded; in a container, all of the machine's."""


def visible_devices() -> list[str]:
    """Names of the GPUs that payloads may be given: what CUDA_VISIBLE_DEVICES says, else a number for each of the machine's.

    Not asked of CUDA: this is the control plane, and a context on every GPU costs half a gigabyte each.
    """
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    return [str(number) for number, _ in enumerate(_DRIVER.iterdir())] if _DRIVER.is_dir() else []


def choose(devices: Sequence[str], taken: Iterable[str], wanted: int) -> list[str]:
    """``wanted`` of ``devices``, those in use by the fewest first, in their order; ``taken`` has a name per use.

    More than there are is all of them: the training itself then says what it lacks.
    """
    uses = Counter(taken)
    best = sorted(range(len(devices)), key=lambda number: (uses[devices[number]], number))[:wanted]
    return [devices[number] for number in sorted(best)]
