"""The checks of a tokenized split, on figures of its sequences alone: no row is held in memory for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ftplatform.core.checks import CheckResult
from ftplatform.data.text import SHOWN_ROWS
from ftplatform.data.tokens.shards import Layout
from ftplatform.data.tokens.work import SplitShards


def check_split(
    split: SplitShards,
    layout: Layout,
    max_length: int,
    too_long: Literal["refuse", "drop"],
    sources: Callable[[Sequence[int]], dict[int, str]],
) -> list[CheckResult]:
    """``rows_supervised``, ``stop_token_trained`` and ``truncation``; the last one blocks only under ``refuse``.

    ``sources`` gives the source of rows by their place among the rows asked for. A preference row counts as bare or endless when
    either of its answers is; prompts carry no loss of their own, so there is nothing to find in them.
    """
    figures, per_row = split.figures, 2 if layout == "preference" else 1
    rows, left_out = len(split.kept), len(split.too_long)
    bare = (figures.supervised == 0).reshape(-1, per_row).any(1) & (layout != "prompts")
    endless = (figures.stops < figures.turns).reshape(-1, per_row).any(1)
    lengths = figures.lengths.reshape(-1, per_row).sum(1)
    turns = figures.turns.reshape(-1, per_row).sum(1)
    worst = np.argsort(-split.longest, kind="stable")[:SHOWN_ROWS]
    longest = int(max(split.longest, default=max(figures.lengths, default=0)))
    shown_bare, shown_endless = np.flatnonzero(bare)[:SHOWN_ROWS], np.flatnonzero(endless)[:SHOWN_ROWS]
    asked = [*split.kept[shown_bare], *split.kept[shown_endless], *split.too_long[worst]]
    source = sources([int(place) for place in asked]) if asked else {}
    return [
        CheckResult(
            "rows_supervised",
            rows > 0 and not bare.any(),
            ("Prompts are answered and graded in training; they carry no loss." if layout == "prompts" and rows else "")
            or f"{rows - int(bare.sum())} of {rows} rows have tokens to learn."
            + (" No row fits the length limit." if not rows else ""),
            numbers={"rows": rows, "without_supervision": int(bare.sum())},
            rows=[{"source": source[int(split.kept[i])], "tokens": int(lengths[i])} for i in shown_bare],
        ),
        CheckResult(
            "stop_token_trained",
            not endless.any(),
            f"In {rows - int(endless.sum())} of {rows} rows every trained answer ends with a trained stop token"
            + ("; a model that never learns it never stops." if endless.any() else "."),
            numbers={"rows": rows, "without_stop": int(endless.sum())},
            rows=[{"source": source[int(split.kept[i])], "trained_turns": int(turns[i])} for i in shown_endless],
        ),
        CheckResult(
            "truncation",
            not left_out,
            f"{left_out} of {rows + left_out} rows are longer than {max_length} tokens (longest {longest}) and are "
            f"left out whole; nothing is cut. Policy: {too_long}."
            if layout != "text"
            else f"Documents are cut into sequences of {max_length} tokens; none is left out.",
            severity="error" if too_long == "refuse" else "warning",
            numbers={"rows": rows + left_out, "left_out": left_out, "max_length": max_length, "longest": longest},
            rows=[{"source": source[int(split.too_long[i])], "tokens": int(split.longest[i])} for i in worst],
        ),
    ]
