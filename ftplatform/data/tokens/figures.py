"""What sequences of tokens teach, in figures per answer: all that the proof needs, a few bytes a row and no row in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ftplatform.data.tokens.ragged import starts_of, sums
from ftplatform.data.tokens.tokenize import TokenBlock


@dataclass(frozen=True, slots=True)
class Figures:
    """Of S sequences, without their tokens."""

    lengths: NDArray[np.int64]
    """[S] tokens."""
    turns: NDArray[np.int32]
    """[S] answers that carry loss."""
    supervised: NDArray[np.int32]
    """[S] tokens that carry loss and can be predicted: all learned ones but the first token, which nothing comes before."""
    stopped: NDArray[np.int32]
    """[S] answers that hold a learned stop token."""
    unended: NDArray[np.bool_]
    """[S] the last answer runs to the end of the sequence and holds no stop token."""

    @property
    def share(self) -> NDArray[np.float64]:
        """[S] share of the tokens that carries loss."""
        found: NDArray[np.float64] = self.supervised / np.maximum(self.lengths, 1)
        return found

    def take(self, sequences: NDArray[np.int64]) -> Figures:
        return Figures(*(getattr(self, one.name)[sequences] for one in fields(self)))


NO_FIGURES = Figures(
    np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.bool_)
)


def joined(parts: Sequence[Figures]) -> Figures:
    return Figures(*(np.concatenate([getattr(one, f.name) for one in (NO_FIGURES, *parts)]) for f in fields(Figures)))


def measure(block: TokenBlock, stop_ids: Collection[int]) -> Figures:
    """The figures of a block's sequences.

    An answer is a stretch of learned tokens. Two that touch (a template without anything between them) look like one; there each
    further run of stop tokens counts as the end of one more answer, up to the answers that were rendered.
    """
    ids, learned, lengths = block.ids, block.learned, block.lengths
    first = starts_of(lengths)[lengths > 0]
    counted = learned.copy()
    counted[first] = False
    stop = learned & np.isin(ids, np.array(sorted(stop_ids), dtype=np.int32))
    begins = np.flatnonzero(_begin(learned, first))
    ends = np.cumsum(lengths)
    owner = np.searchsorted(ends, begins, side="right")
    upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(_begin(stop, first))])
    stops = upto[np.append(begins[1:], len(ids))] - upto[begins] if len(begins) else begins
    count = len(lengths)
    stretches = np.bincount(owner, minlength=count)
    with_stop = np.bincount(owner[stops > 0], minlength=count)
    further = np.bincount(owner, weights=np.maximum(stops - 1, 0), minlength=count).astype(np.int64)
    stopped = with_stop + np.minimum(np.maximum(block.turns - stretches, 0), further)
    unended = np.zeros(count, dtype=np.bool_)
    has = stretches > 0
    unended[has] = learned[ends[has] - 1] & (stops[np.cumsum(stretches)[has] - 1] == 0)
    return Figures(
        lengths,
        block.turns.astype(np.int32),
        sums(counted.astype(np.int64), lengths).astype(np.int32),
        stopped.astype(np.int32),
        unended,
    )


def _begin(flags: NDArray[np.bool_], first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[T] where a run of set flags begins; one that reaches over the border of two sequences begins anew there."""
    before = np.concatenate([np.zeros(1, np.bool_), flags[:-1]])[: len(flags)]
    before[first] = False
    begins: NDArray[np.bool_] = flags & ~before
    return begins
