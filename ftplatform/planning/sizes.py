"""Reading a Hugging Face ``config.json`` that anybody may have written: every size is a positive whole number, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftplatform.core.errors import PlanRefused

LARGEST = 10**9
"""No model has a size above it, and sums of products of such sizes still are numbers of reasonable length."""


class Sizes:
    """The values of one ``config.json``, checked as they are read."""

    def __init__(self, architecture: str, values: Mapping[str, Any]) -> None:
        self.architecture = architecture
        self._values = values

    def whole(self, name: str, default: int | None = None) -> int:
        """A size; ``default`` stands in for one that is missing or null.

        Raises:
            PlanRefused: missing without a default, or anything but a whole number from 1.
        """
        found = self.maybe(name)
        if found is None:
            found = default
        if found is None:
            raise PlanRefused(f"the config.json of this {self.architecture} has no {name!r}: the model cannot be sized")
        return found

    def maybe(self, name: str) -> int | None:
        """A size that may be missing or null.

        Raises:
            PlanRefused: anything but a whole number from 1.
        """
        found = self._values.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= LARGEST:
            raise PlanRefused(
                f"the config.json of this {self.architecture} has {name} {found!r}: accepted is a whole number from 1 to {LARGEST:,}"
            )
        return found

    def flag(self, name: str, default: bool) -> bool:
        """Raises PlanRefused: neither missing, null, true nor false."""
        found = self._values.get(name)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise PlanRefused(
                f"the config.json of this {self.architecture} has {name} {found!r}: accepted are true and false"
            )
        return found

    def blocks(self, name: str) -> frozenset[int]:
        """Numbers of blocks; none where they are missing or null.

        Raises:
            PlanRefused: anything but a list of whole numbers.
        """
        found = self._values.get(name)
        if found is None:
            return frozenset()
        if not isinstance(found, list) or not all(type(one) is int for one in found):
            raise PlanRefused(
                f"the config.json of this {self.architecture} has {name} {found!r}: accepted is a list of block numbers"
            )
        return frozenset(found)

    def scaled(self, name: str, default: float | None = None) -> bool:
        """Whether ``name`` is a factor other than 1: what training/loss.py asks of a model's logits."""
        found = self._values.get(name, default)
        return found is not None and found != 1
