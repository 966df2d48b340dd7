"""A whole split through the model, shared by the processes: evaluations, and what the starting model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ftplatform.training.logprobs import Batch
from ftplatform.training.ranks import world


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model is in eval mode inside, and afterwards in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def micro_batches(
    model: Any, examples: Any, size: int, alive: Callable[[str], None], doing: str
) -> Iterator[tuple[list[int], Batch]]:
    """This process's micro-batches of ``examples`` with the units in them, on the model's device; a sign of life before each.

    Every process gets as many. A model that is divided computes on all of them or on none: where no unit is left, there are
    none beside the batch, which is that of unit 0 and not to be counted.
    """
    device, (rank, processes) = next(model.parameters()).device, world()
    for begin in range(0, len(examples), processes * size):
        alive(f"{doing}: {begin} of {len(examples)}")
        units = list(range(begin + rank * size, min(begin + (rank + 1) * size, len(examples))))
        yield units, {name: value.to(device) for name, value in examples.collate(units or [0]).items()}
