"""What an engine should hold and how requests are routed: the document a reconciler works towards."""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol

from pydantic import Field, model_validator

from ftplatform.core.frozen import Frozen

Kind = Literal["lora", "full", "base"]


class ServedModel(Frozen):
    """Weights under a name that never changes its meaning."""

    name: str = Field(min_length=1)
    kind: Kind
    weights: str
    """Tree: PEFT adapter folder (lora) or Hugging Face folder (full, base)."""
    base_weights: str
    """Tree: the base model's folder; equal to ``weights`` for ``base``."""
    template: str | None = None
    """Digest of the chat template that rendered the training rows; an engine that would render by another refuses to
    load.
    """
    fingerprint: str | None = None
    """Object: see ``serving/fingerprint.py``; the engine checks it before the model gets any request."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """The bytes that answer, which a name is bound to for ever."""
        return (self.kind, self.weights, self.base_weights)


class Route(Frozen):
    """Requests for ``model`` (``tenant.dataset``) go to served names by weight."""

    model: str
    targets: tuple[tuple[str, float], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _weights_make_a_distribution(self) -> Route:
        if any(not 0 <= weight < float("inf") for _, weight in self.targets) or not sum(
            weight for _, weight in self.targets
        ):
            raise ValueError(
                f"route {self.model}: weights must be finite, not negative and not all 0, found {self.targets}"
            )
        return self

    def choose(self, key: str) -> str:
        """The served name for ``key``: the same key gets the same name as long as the targets stand.

        The key's SHA-256 gives a point in [0, 1) that the cumulated weights divide; the model's name is hashed in, so
        that one user is not in the same share of every dataset's experiment.
        """
        digest = hashlib.sha256(f"{self.model}\0{key}".encode()).digest()
        point = int.from_bytes(digest[:7], "big") / 2**56 * sum(weight for _, weight in self.targets)
        for name, weight in self.targets:
            point -= weight
            if point < 0:
                return name
        return next(name for name, weight in reversed(self.targets) if weight > 0)


class DesiredState(Frozen):
    models: tuple[ServedModel, ...] = ()
    routes: tuple[Route, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> DesiredState:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError(f"desired state: a served name appears twice in {sorted(names)}")
        return self


class DesiredSource(Protocol):
    def read(self) -> DesiredState:
        """The state wanted now. May raise anything while its store is away: the reconciler keeps what it has and asks
        again.
        """
