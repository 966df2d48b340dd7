"""The processes of a training: their numbers, and sums over them."""

from __future__ import annotations

import os

import torch


def world() -> tuple[int, int]:
    """Number of this process and of all of them; (0, 1) without a process group."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def leader() -> int:
    """Number of the first process on this machine; what all of them read, it fetches."""
    return world()[0] - int(os.environ.get("LOCAL_RANK", "0")) if world()[1] > 1 else 0


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum over processes, the same on each; every process has to call."""
    if world()[1] == 1:
        return value
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = value.detach().clone().to(device)
    torch.distributed.all_reduce(total)
    return total.to(value.device)
