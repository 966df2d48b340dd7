"""What finished jobs measured, kept as envelopes per base model, parameterisation, length and GPU.

A document per job below the envelope's folder, merged on reading: two jobs that end at once lose nothing, and a retried write
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

from pydantic import Field

from ftplatform.core.frozen import Frozen
from ftplatform.planning.setup import Setup

_FOLDER = "calibration"


class Store(Protocol):
    """What is used of ``ObjectStore``."""

    def put_doc(self, name: str, value: object) -> None: ...
    def get_doc(self, name: str) -> object: ...
    def list_docs(self, prefix: str) -> list[str]: ...


class CalibrationKey(Frozen):
    base: str
    """Slug and revision."""
    parameterisation: str
    """``Setup.measured_as``: ``lora``, ``qlora``, ``full-bf16-adamw_8bit``, ``dpo-lora`` ..."""
    length: int
    gpu: str

    @property
    def folder(self) -> str:
        return f"{_FOLDER}/{self.base}/{self.parameterisation}/{self.length}/{self.gpu}"


class Measurement(Frozen):
    """One finished job."""

    estimated_gb: float = Field(gt=0)
    """What the plan said for one GPU (``expected_peak``)."""
    peak_gb: float = Field(gt=0)
    """Peak of the worst rank."""
    tokens_per_second: float = Field(gt=0)
    """Positions per second of one GPU, in the steady state."""


class Envelope(Frozen):
    jobs: int
    memory_ratio: tuple[float, float]
    """Least and greatest measured peak / estimate."""
    tokens_per_second: tuple[float, float]
    """Of one GPU, slowest and fastest job; a single job counts with 10 % to both sides."""


def record(store: Store, key: CalibrationKey, job: str, measured: Measurement) -> None:
    """Keep what ``job`` measured; writing it again replaces it."""
    store.put_doc(f"{key.folder}/{job}", measured.model_dump(mode="json"))


def envelope(store: Store, key: CalibrationKey) -> Envelope | None:
    """What is known for ``key``; None where no job has finished."""
    found = [Measurement.model_validate(store.get_doc(name)) for name in store.list_docs(f"{key.folder}/")]
    if not found:
        return None
    ratios = [one.peak_gb / one.estimated_gb for one in found]
    speeds = [one.tokens_per_second for one in found]
    slack = 0.1 if len(found) == 1 else 0.0
    return Envelope(
        jobs=len(found),
        memory_ratio=(min(ratios), max(ratios)),
        tokens_per_second=(min(speeds) * (1 - slack), max(speeds) * (1 + slack)),
    )


def measured_by(store: Store, base: str) -> Callable[[Setup, int, str], Envelope | None]:
    """What is known of ``base`` (slug and revision) as the planner asks: (setup, length, gpu); each envelope is read once."""

    @cache
    def found(parameterisation: str, length: int, gpu: str) -> Envelope | None:
        return envelope(store, CalibrationKey(base=base, parameterisation=parameterisation, length=length, gpu=gpu))

    return lambda setup, length, gpu: found(setup.measured_as, length, gpu)
