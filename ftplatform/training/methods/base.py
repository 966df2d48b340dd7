"""What a training method is: how it reads examples, and what it makes of a batch of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.methods import find_method
from ftplatform.core.payload import TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.training.fingerprint import fingerprint
from ftplatform.training.logprobs import Batch
from ftplatform.training.methods.splits import evaluating, micro_batches
from ftplatform.training.model import save_weights, trainable_model
from ftplatform.training.ranks import summed


class Examples(Protocol):
    """The units of a split, numbered from 0; a unit is what ``batch_size`` counts."""

    tokens: torch.Tensor
    """Tokens the model sees per unit: int64 [N]."""
    labelled: torch.Tensor
    """Positions that carry loss per unit: int64 [N]."""

    def __len__(self) -> int: ...

    def collate(self, units: list[int]) -> Batch:
        """On the host, with all that the host has to know of them: a GPU makes it wait."""
        ...

    def probe(self) -> list[int]:
        """The beginning of the first document, for the fingerprint."""
        ...


class Figures:
    """Means over the examples of a step, whatever micro-batches and processes they came in.

    Sums stay on the device until they are taken: to read one, the host would wait for all that the device has to do.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: torch.Tensor) -> None:
        """``values`` [n]; every process adds the same names, in whatever number."""
        self._sums[name] = self._sums[name] + values.detach().float().sum().double()
        self._counts[name] += values.numel()

    def merge(self, other: Figures, *, counted: bool = True) -> None:
        """Take over what ``other`` holds, or its names alone, and empty it."""
        for name in other._sums:
            self._sums[name] = self._sums[name] + (other._sums[name] if counted else 0.0)
            self._counts[name] += other._counts[name] if counted else 0
        other.clear()

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def take(self) -> dict[str, float]:
        """The means since the last call; a name without any example is left out."""
        names = sorted(self._sums)
        if not names:
            return {}
        sums = [torch.as_tensor(self._sums[name], dtype=torch.float64) for name in names]
        device = next((one.device for one in sums if one.is_cuda), torch.device("cpu"))
        values = torch.stack([one.to(device) for one in sums]).tolist()
        counts = [self._counts[name] for name in names]
        totals = summed(torch.tensor([values, counts], dtype=torch.float64))
        self.clear()
        return {name: float(total / count) for name, total, count in zip(names, *totals, strict=True) if count}


@dataclass(frozen=True, slots=True)
class Work:
    """Where a training takes place."""

    spec: TrainSpec
    store: ObjectStore
    base: Path
    """Folder of the base model."""
    folder: Path
    """For passing files."""
    alive: Callable[[str], None]
    """A sign of life, with what is being done."""

    def init(self) -> Path | None:
        """Folder of what training starts from in place of the bare base; None for the base."""
        into = self.folder / "init"
        if self.spec.init_weights is None or into.is_dir():
            return into if into.is_dir() else None
        return self.store.fetch_tree(self.spec.init_weights, into)


class TrainingMethod(ABC):
    """One object per training. ``loss`` gives a sum: the trainer divides by the labelled tokens of the whole effective
    batch where batches hold ``labels``, otherwise by ``batch_size``, so that micro-batches and processes do not show.
    """

    def __init__(self, work: Work, options: Any) -> None:
        self.work, self.spec, self.options = work, work.spec, options

    def model(self) -> Any:
        """The model to train. Raises InvalidConfig: something asked for did not engage."""
        return trainable_model(self.spec, self.work.base, self.work.init())

    @abstractmethod
    def read(self, paths: Sequence[Path], vocabulary: int) -> Examples:
        """A split's examples. Raises DataRefused."""

    def worst_loss(self, vocabulary: int) -> float:
        """A loss that no sound training has for twenty steps."""
        return math.inf

    def begin(self, model: Any, splits: dict[str, Any]) -> None:  # noqa: B027 - most methods need nothing here
        """Called once on every process with the starting model, on its device, before a checkpoint is loaded."""

    def prepare(self, model: Any, batches: list[Batch], examples: Any, step: int) -> list[Batch]:
        """The micro-batches of a step, made ready. Draws nothing from the global random numbers."""
        return batches

    @abstractmethod
    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        """Sum of the losses of a micro-batch (float32 scalar)."""

    def weight(self, examples: Any) -> int:
        """What the summed loss of a split is divided by."""
        return len(examples)

    @torch.no_grad()
    def evaluate(self, model: Any, examples: Any, **given: torch.Tensor) -> dict[str, float]:
        """``eval_loss`` and the figures of a split, in eval mode, drawing no global random number; every process calls, and
        computes its share. ``given`` is what every micro-batch gets beside its examples.
        """
        figures, own = Figures(), Figures()
        total = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
        with evaluating(model):
            for units, batch in micro_batches(model, examples, self.spec.micro_batch, self.work.alive, "evaluating"):
                [batch] = self.prepare(model, [batch | given], examples, self.spec.steps)
                loss = self.loss(model, batch, own)
                total += loss if units else 0.0
                figures.merge(own, counted=bool(units))
        return {
            "eval_loss": float(summed(total)) / self.weight(examples),
            **{f"eval_{name}": value for name, value in figures.take().items()},
        }

    def save(self, model: Any, into: Path) -> Path:
        return save_weights(model, self.spec, self.work.base, into, self.work.init())

    def prove(self, weights: Path, examples: Any) -> dict[str, Any]:
        """What an engine repeats to prove that it serves these weights."""
        return fingerprint(self.work.base, weights, self.spec.parameterisation, examples.probe())


def open_method(work: Work) -> TrainingMethod:
    """The method that the spec names, with its options.

    Raises:
        InvalidConfig: no such method, or what the plug-in names is none.
    """
    info = find_method(work.spec.method)
    module, _, name = info.implementation.partition(":")
    made = getattr(import_module(module), name)
    if not (isinstance(made, type) and issubclass(made, TrainingMethod)):
        raise InvalidConfig(f"{info.implementation} is {made!r}; accepted is a subclass of TrainingMethod")
    return made(work, info.options.model_validate(work.spec.options) if info.options else None)
