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
SHOWN_TOKENS = 4096
"""Of one row; a document can have a million."""

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


def learned_markdown(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, why: Sequence[str] = ()) -> str:
    """Rows as markdown, which has no colours: what carries loss is bold, the rest plain. ``why`` each is shown may be said."""
    blocks = []
    for row, reason in _with_reasons(rows, why):
        parts = [
            f"**{text}**" if learned else text
            for piece, learned in _begin(row, tokenizer)
            if (text := cell(piece).replace("*", "\\*").strip())
        ]
        blocks.append(f"`{row.source}`{f' ({reason})' if reason else ''}: {' '.join(parts)}{_left(row)}")
    return "\n\n".join(blocks) or "_no rows_"


def learned_html(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, why: Sequence[str] = ()) -> str:
    """Rows as HTML: what carries loss is marked green."""
    blocks = []
    for row, reason in _with_reasons(rows, why):
        parts = [
            f'<mark style="background:#c9f2d0">{escape(text)}</mark>' if learned else escape(text)
            for text, learned in _begin(row, tokenizer)
        ]
        head = f"<b>{escape(row.source)}</b>{f' ({escape(reason)})' if reason else ''}"
        blocks.append(f"<p>{head}</p><pre style='white-space:pre-wrap'>{''.join(parts)}{_left(row)}</pre>")
    return "".join(blocks)


def learned_page(rows: Sequence[TokenizedRow], tokenizer: Tokenizer, title: str, why: Sequence[str] = ()) -> str:
    """A page of its own, for a browser without a network; every row given is on it."""
    counts = f"{len(rows)} rows. Green text carries loss: the model learns to write it. It reads the rest."
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{PAGE_STYLE}</style><h1>{escape(title)}</h1><p>{counts}</p>"
        f"{learned_html(rows, tokenizer, why)}</html>\n"
    )


def _with_reasons(rows: Sequence[TokenizedRow], why: Sequence[str]) -> Iterator[tuple[TokenizedRow, str]]:
    return zip(rows, why or [""] * len(rows), strict=True)


def _begin(row: TokenizedRow, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    return stretches(row.input_ids[:SHOWN_TOKENS], row.labels[:SHOWN_TOKENS], tokenizer)


def _left(row: TokenizedRow) -> str:
    left = len(row.input_ids) - SHOWN_TOKENS
    return f" … and {left} tokens more" if left > 0 else ""
