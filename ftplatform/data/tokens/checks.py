"""The checks of tokenized rows, on their figures alone: no row is held in memory for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ftplatform.core.checks import CheckResult
from ftplatform.data.text import SHOWN_ROWS
from ftplatform.data.tokens.fitted import Fitted


def check_rows(
    rows: Fitted,
    too_long: Literal["refuse", "drop"],
    sources: Callable[[Sequence[int]], dict[int, str]],
) -> list[CheckResult]:
    """``rows_supervised``, ``stop_token_trained`` and ``truncation``; the last one blocks under ``refuse``, and always when an
    answer is cut.

    ``sources`` gives the source of rows by their place among the rows asked for. A preference row counts as bare, endless or
    cut when either of its answers is.
    """
    figures, count, left_out = rows.figures, len(rows.kept), len(rows.too_long)
    bare, endless, cut = (flags.reshape(-1, rows.per_row).any(1) for flags in (rows.bare, rows.endless, rows.cut))
    columns = {
        name: getattr(figures, name).reshape(-1, rows.per_row).sum(1)
        for name in ("lengths", "supervised", "turns", "stopped")
    }
    worst = np.argsort(-rows.longest, kind="stable")[:SHOWN_ROWS]
    found = {
        name: np.flatnonzero(flags)[:SHOWN_ROWS] for name, flags in (("bare", bare), ("endless", endless), ("cut", cut))
    }
    asked = np.concatenate([*(rows.kept[some] for some in found.values()), rows.too_long[worst]])
    source = sources(asked.tolist()) if len(asked) else {}

    def table(name: str) -> list[dict[str, Any]]:
        return [
            {
                "source": source[int(rows.kept[i])],
                "tokens": int(columns["lengths"][i]),
                "learned": int(columns["supervised"][i]),
                "answers": int(columns["turns"][i]),
                "stopped": int(columns["stopped"][i]),
            }
            for i in found[name]
        ]

    tokens, learned = int(columns["lengths"].sum()), int(columns["supervised"].sum())
    longest = int(max(rows.longest.max(initial=0), figures.lengths.max(initial=0)))
    return [
        CheckResult(
            "rows_supervised",
            count > 0 and not bare.any(),
            (
                "Prompts are answered and graded in training; they carry no loss."
                if rows.layout == "prompts" and count
                else ""
            )
            or f"{count - int(bare.sum())} of {count} rows have tokens to learn; {learned} of {tokens} tokens carry loss."
            + (" No row fits the length limit." if not count else ""),
            numbers={
                "rows": count,
                "without_supervision": int(bare.sum()),
                "supervised_share": learned / tokens if tokens else 0.0,
            },
            rows=table("bare"),
        ),
        CheckResult(
            "stop_token_trained",
            not endless.any(),
            f"In {count - int(endless.sum())} of {count} rows every trained answer ends with a trained stop token"
            + ("; a model that never learns it never stops." if endless.any() else "."),
            numbers={"rows": count, "without_stop": int(endless.sum())},
            rows=table("endless"),
        ),
        CheckResult(
            "truncation",
            not left_out and not cut.any(),
            f"Documents are cut into sequences of {rows.max_length} tokens; none is left out."
            if rows.layout == "text"
            else f"{left_out} of {count + left_out} rows are longer than {rows.max_length} tokens (longest {longest}) and are "
            f"left out whole; {int(cut.sum())} answers are cut. Policy: {too_long}.",
            severity="error" if too_long == "refuse" or cut.any() else "warning",
            numbers={
                "rows": count + left_out,
                "left_out": left_out,
                "cut": int(cut.sum()),
                "max_length": rows.max_length,
                "longest": longest,
            },
            rows=table("cut")
            or [{"source": source[int(rows.too_long[i])], "tokens": int(rows.longest[i])} for i in worst],
        ),
    ]
