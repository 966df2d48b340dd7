"""What the processes of a training decide together: ranks that disagree on stopping or saving wait for each other for ever."""

from __future__ import annotations

import torch

from ftplatform.training.ranks import summed, world


def highest(number: int) -> int:
    """The largest of the ranks' numbers, the same on each; every rank has to call."""
    return int(_max(torch.tensor([number]))[0])


def agreed(number: int) -> bool:
    """Whether every rank has the same number; every rank has to call."""
    top, bottom = _max(torch.tensor([number, -number])).tolist()
    return bool(top == -bottom)


def mean_of_ranks(figures: dict[str, float]) -> dict[str, float]:
    """Per name the mean over ranks, so that last bits do not tell two ranks apart; one rank's figures stay as they are."""
    if world()[1] == 1:
        return figures
    total = summed(torch.tensor([figures[name] for name in sorted(figures)], dtype=torch.float64)) / world()[1]
    return dict(zip(sorted(figures), total.tolist(), strict=True))


def meet() -> None:
    """Wait for all ranks."""
    if world()[1] > 1:
        torch.distributed.barrier()


def _max(numbers: torch.Tensor) -> torch.Tensor:
    if world()[1] == 1:
        return numbers
    numbers = numbers.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
    return numbers.cpu()
