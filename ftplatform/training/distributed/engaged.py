"""Whether the strategy that was asked for is what trains: asked of the live objects, never of the settings."""

from __future__ import annotations

from typing import Any

import torch

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.core.strategies import DEEPSPEED, processes_wanted
from ftplatform.training.distributed.fsdp import check_sharded
from ftplatform.training.distributed.zero import check_zero
from ftplatform.training.ranks import world


def check_processes(spec: TrainSpec) -> None:
    """Raises InvalidConfig: a strategy for another number of processes, or other processes than asked for are here."""
    if wrong := processes_wanted(spec.strategy, spec.processes, spec.nodes):
        raise InvalidConfig(f"{wrong}. Change hardware.strategy or hardware.gpus; a retry does not help")
    if (here := world()[1]) != spec.processes:
        raise InvalidConfig(
            f"the training was to run in {spec.processes} processes and runs in {here}: the launcher started it otherwise"
        )


def check_strategy(spec: TrainSpec, model: Any, wrapped: Any) -> None:
    """``model`` is the plain one, ``wrapped`` the one that the steps call.

    Raises:
        InvalidConfig: the strategy did not engage.
    """
    if spec.strategy in DEEPSPEED:
        check_zero(wrapped, spec)
        return
    if spec.strategy == "fsdp2":
        check_sharded(wrapped)
    expected = torch.nn.parallel.DistributedDataParallel if spec.strategy == "ddp" else type(model)
    if type(wrapped) is not expected:
        raise InvalidConfig(
            f"strategy {spec.strategy} did not engage: the steps call a {type(wrapped).__name__}, expected was a "
            f"{expected.__name__}"
        )
