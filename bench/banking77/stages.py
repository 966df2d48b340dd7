"""Wall and CPU seconds of a stage, its payload processes among them."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    wall_seconds: float
    cpu_seconds: float
    """Of this process and of every child that ended; on a busy machine the steadier figure."""


class Stages:
    """The stages so far, in order."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"== {name}", flush=True)
        wall, cpu = time.monotonic(), cpu_seconds()
        yield
        self.done.append(Stage(name, round(time.monotonic() - wall, 1), round(cpu_seconds() - cpu, 1)))
        print(f"   {self.done[-1].wall_seconds} s, {self.done[-1].cpu_seconds} s of CPU", flush=True)

    def as_json(self) -> list[dict[str, object]]:
        return [asdict(stage) for stage in self.done]


def cpu_seconds() -> float:
    """User and system time of this process and of its ended children."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
