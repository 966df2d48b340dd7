"""Which rows are within the length limit, and what is wrong with those: the one definition that every check goes by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftplatform.data.tokens.figures import Figures
from ftplatform.data.tokens.shards import Layout


@dataclass(frozen=True, slots=True)
class Fitted:
    """Which of the rows asked for are within the limit, and what they teach. Flags and figures are those of sequences."""

    layout: Layout
    max_length: int
    figures: Figures
    """[kept * per_row], in the order asked for."""
    sequences: NDArray[np.int64]
    """[kept * per_row]: their numbers among all sequences."""
    kept: NDArray[np.int64]
    """Places, among the rows asked for, of those that are."""
    too_long: NDArray[np.int64]
    """Places of those left out, whole."""
    longest: NDArray[np.int64]
    """Tokens of the longer sequence of each row in ``too_long``."""

    @property
    def per_row(self) -> int:
        """Sequences of a row."""
        return per_row(self.layout)

    @property
    def bare(self) -> NDArray[np.bool_]:
        """Nothing is learned. Prompts carry no loss of their own: there is nothing to find in them."""
        found: NDArray[np.bool_] = (self.figures.supervised == 0) & (self.layout != "prompts")
        return found

    @property
    def endless(self) -> NDArray[np.bool_]:
        """An answer does not learn to end."""
        found: NDArray[np.bool_] = self.figures.stopped < self.figures.turns
        return found

    @property
    def cut(self) -> NDArray[np.bool_]:
        """The sequence fills the limit, and its last answer runs to the end without a stop token. Documents may."""
        full = self.figures.lengths >= self.max_length
        found: NDArray[np.bool_] = self.figures.unended & full & (self.layout != "text")
        return found


def per_row(layout: Layout) -> int:
    """Sequences of a row: chosen and rejected of a preference pair, else one."""
    return 2 if layout == "preference" else 1


def fit(figures: Figures, rows: NDArray[np.int64], layout: Layout, max_length: int) -> Fitted:
    """The rows with the numbers ``rows`` of whose sequences none is longer than ``max_length``; documents are as long as they are."""
    numbers = rows[:, None] * per_row(layout) + np.arange(per_row(layout))
    lengths = figures.lengths[numbers]
    fits = (lengths > 0).all(1) & ((lengths <= max_length).all(1) | (layout == "text"))
    kept, too_long = np.flatnonzero(fits), np.flatnonzero(~fits)
    sequences = numbers[kept].reshape(-1)
    longest = lengths[too_long].max(1, initial=0)
    return Fitted(layout, max_length, figures.take(sequences), sequences, kept, too_long, longest)
