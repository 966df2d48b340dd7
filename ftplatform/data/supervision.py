"""Proof, on real token ids, of what a row teaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftplatform.core.checks import CheckResult
from ftplatform.data.tables import cell
from ftplatform.data.text import SHOWN_ROWS
from ftplatform.data.tokenize import IGNORED, Tokenized, TokenizedRow


def supervised_text(
    ids: NDArray[np.int32] | Sequence[int], labels: NDArray[np.int32] | Sequence[int], tokenizer: Tokenizer
) -> str:
    """The text that carries loss, control tokens written out; separate stretches are joined by `` | ``."""
    return " | ".join(text for text, learned in _stretches(ids, labels, tokenizer) if learned)


def check_supervision(
    tokenized: Tokenized, stop_ids: frozenset[int], too_long: Literal["refuse", "drop"]
) -> list[CheckResult]:
    """``rows_supervised``, ``stop_token_trained`` and ``truncation``; the last one blocks only under ``refuse``."""
    rows = tokenized.rows
    bare = [row for row in rows if not np.any(row.labels[1:] != IGNORED)]
    endless = [row for row in rows if np.isin(row.labels, list(stop_ids)).sum() < row.trained_turns]
    left_out = len(tokenized.too_long)
    total = len(rows) + left_out
    longest = max((row["tokens"] for row in tokenized.too_long), default=max(tokenized.lengths, default=0))
    return [
        CheckResult(
            "rows_supervised",
            bool(rows) and not bare,
            f"{len(rows) - len(bare)} of {len(rows)} rows have tokens to learn."
            + (" No row fits the length limit." if not rows else ""),
            numbers={"rows": len(rows), "without_supervision": len(bare)},
            rows=[{"source": row.source, "tokens": len(row.input_ids)} for row in bare[:SHOWN_ROWS]],
        ),
        CheckResult(
            "stop_token_trained",
            not endless,
            f"In {len(rows) - len(endless)} of {len(rows)} rows every trained answer ends with a trained stop token"
            + ("; a model that never learns it never stops." if endless else "."),
            numbers={"rows": len(rows), "without_stop": len(endless)},
            rows=[{"source": row.source, "trained_turns": row.trained_turns} for row in endless[:SHOWN_ROWS]],
        ),
        CheckResult(
            "truncation",
            not left_out,
            f"{left_out} of {total} rows are longer than {tokenized.max_length} tokens (longest {longest}) and are "
            f"left out whole; nothing is cut. Policy: {too_long}.",
            severity="error" if too_long == "refuse" else "warning",
            numbers={"rows": total, "left_out": left_out, "max_length": tokenized.max_length, "longest": longest},
            rows=sorted(tokenized.too_long, key=lambda row: -row["tokens"])[:SHOWN_ROWS],
        ),
    ]


def learned_markdown(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, limit: int = 3) -> str:
    """A few rows as markdown: what carries loss is bold, the rest plain."""
    blocks = []
    for row in rows[:limit]:
        parts = [
            f"**{shown}**" if learned else shown
            for text, learned in _stretches(row.input_ids, row.labels, tokenizer)
            if (shown := cell(text).replace("*", "\\*").strip())
        ]
        blocks.append(f"`{row.source}`: " + " ".join(parts))
    return "\n\n".join(blocks) or "_no rows_"


def learned_html(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, limit: int = 3) -> str:
    """A few rows as HTML: what carries loss is marked green."""
    blocks = []
    for row in rows[:limit]:
        parts = [
            f'<mark style="background:#c9f2d0">{escape(text)}</mark>' if learned else escape(text)
            for text, learned in _stretches(row.input_ids, row.labels, tokenizer)
        ]
        blocks.append(f"<p><b>{escape(row.source)}</b></p><pre style='white-space:pre-wrap'>{''.join(parts)}</pre>")
    return "".join(blocks)


def _stretches(
    ids: Sequence[int] | NDArray[np.int32], labels: Sequence[int] | NDArray[np.int32], tokenizer: Tokenizer
) -> Iterator[tuple[str, bool]]:
    pairs = zip(np.asarray(ids).tolist(), np.asarray(labels).tolist(), strict=True)
    for learned, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        yield tokenizer.decode([i for i, _ in group], skip_special_tokens=False), learned
