"""The model as it was when the training began, for a reference on answers that did not exist then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StartingWeights:
    """A copy of the trained parameters alone: the size of an adapter, or of the whole model with full weights.

    It holds for every parameterisation, also where switching the adapter off would not give the starting model (PiSSA,
    a training that goes on from an adapter).
    """

    def __init__(self, model: Any) -> None:
        self._copies = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model is the starting one inside; trained values come back as they were."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for number, (parameter, copy) in enumerate(self._copies):
            mine = parameter.data
            parameter.data = copy
            self._copies[number] = (parameter, mine)
