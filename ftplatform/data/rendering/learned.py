"""Tokenized rows as people see them: what carries loss is told apart from what the model only reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftplatform.data.tables import cell
from ftplatform.data.tokens.tokenize import IGNORED, TokenizedRow

Ids = NDArray[np.int32] | Sequence[int]

PAGE_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "pre{white-space:pre-wrap;background:#f6f6f4;padding:.8em;border-radius:6px}"
    "mark{background:#c9f2d0}"
)


def stretches(ids: Ids, labels: Ids, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """The text in pieces of (text, carries loss), control tokens written out."""
    pairs = zip(np.asarray(ids).tolist(), np.asarray(labels).tolist(), strict=True)
    for learned, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        yield tokenizer.decode([i for i, _ in group], skip_special_tokens=False), learned


def supervised_text(ids: Ids, labels: Ids, tokenizer: Tokenizer) -> str:
    """The text that carries loss, control tokens written out; separate stretches are joined by `` | ``."""
    return " | ".join(text for text, learned in stretches(ids, labels, tokenizer) if learned)


def learned_markdown(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, limit: int = 3) -> str:
    """A few rows as markdown: what carries loss is bold, the rest plain."""
    blocks = []
    for row in rows[:limit]:
        parts = [
            f"**{shown}**" if learned else shown
            for text, learned in stretches(row.input_ids, row.labels, tokenizer)
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
            for text, learned in stretches(row.input_ids, row.labels, tokenizer)
        ]
        blocks.append(f"<p><b>{escape(row.source)}</b></p><pre style='white-space:pre-wrap'>{''.join(parts)}</pre>")
    return "".join(blocks)


def learned_page(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, title: str) -> str:
    """A page of its own, for a browser without a network; every row given is on it."""
    counts = f"{len(rows)} rows. Green text carries loss: the model learns to write it. It reads the rest."
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{PAGE_STYLE}</style><h1>{escape(title)}</h1><p>{counts}</p>"
        f"{learned_html(rows, tokenizer, len(rows))}</html>\n"
    )
