"""What a tracker's client has to be able to do, and which there are. MLflow is always there; the others are optional packages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, Protocol

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import Tracking
from ftplatform.core.trackers import PACKAGES


class StepFigures(NamedTuple):
    step: int
    time: float
    """Unix seconds."""
    figures: dict[str, float]


class Backend(Protocol):
    """One run at one tracker. Whatever a method raises is tried again later, so a step may be sent twice: it must count once.

    Called by one thread, in the order ``open``, ``send`` ..., ``end``; after an error ``open`` may come again.
    """

    where: str
    """For people: which tracker, at which address."""

    def open(self) -> None:
        """Find the run of the training's key, or begin it; returns at once where it is open."""

    def send(self, steps: Sequence[StepFigures]) -> None:
        """Figures of steps in their order; those of steps that the run has already are left out."""

    def end(self, status: str) -> None:
        """``FINISHED``, ``FAILED``, or ``RUNNING`` for a training that another attempt will go on with."""


def open_backends(tracking: Tracking, key: str) -> list[Backend]:
    """MLflow's and those of ``tracking.others``, none of them connected yet.

    Raises:
        InvalidConfig: a tracker was asked for and its package is not installed.
    """
    from ftplatform.training.trackers.mlflow import Mlflow

    backends: list[Backend] = [Mlflow(tracking, key)]
    for address in tracking.others:
        try:
            import_module(PACKAGES[address.kind])
        except ImportError as error:
            raise InvalidConfig(
                f"FTPLATFORM_TRACKERS names {address.kind}, and `import {PACKAGES[address.kind]}` failed in the training's "
                f"interpreter: {error}. Install it there (`pip install {PACKAGES[address.kind]}`) or leave it out; a retry alone "
                "does not help"
            ) from error
        module = import_module(f"ftplatform.training.trackers.{address.kind}")
        backends.append(module.open_backend(address.target, tracking, key))
    return backends
