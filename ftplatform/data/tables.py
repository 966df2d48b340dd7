"""Rows and numbers as markdown tables and pictures for asset metadata."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.rows import Row
from ftplatform.data.text import shorten

_CELL = 160


def markdown_table(rows: Sequence[dict[str, Any]], limit: int = 20) -> str:
    """A markdown table of at most ``limit`` rows; columns are the keys of the first row. Cells cannot break out of
    the table."""
    if not rows:
        return "_nothing to show_"
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(cell(row.get(name, "")) for name in names) + " |" for row in rows[:limit]]
    if len(rows) > limit:
        lines.append(f"\n{len(rows) - limit} more.")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """One cell: numbers readable, text on one line, markup harmless."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    text = text if len(text) <= _CELL else text[: _CELL - 1] + "…"
    for mark, harmless in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("`", "'"),
        ("[", "\\["),
        ("]", "\\]"),
    ):
        text = text.replace(mark, harmless)
    return text


def sample_table(rows: Iterable[Row], limit: int = 5) -> str:
    """The first rows as a table: source, prompt, answer, tags; e-mail addresses and long numbers are masked."""
    shown: list[dict[str, Any]] = []
    for row in rows:
        if len(shown) == limit:
            break
        answered = row.kind in ("chat", "labelled")
        prompt = " / ".join(m.content for m in (row.messages[:-1] if answered else row.messages) if m.role != "system")
        shown.append(
            {
                "source": row.source,
                "prompt": shorten(prompt, _CELL),
                "answer": shorten(_answer(row), _CELL),
                "tags": ", ".join(f"{k}={v}" for k, v in row.tags.items()),
            }
        )
    return markdown_table(shown)


def _answer(row: Row) -> str:
    """What the row teaches: the last answer, the chosen against the rejected one, or the document."""
    if row.kind == "preference":
        return f"chosen: {row.chosen[-1].content[: _CELL // 3]} / rejected: {row.rejected[-1].content[: _CELL // 3]}"
    if row.kind == "labelled":
        return f"{'good' if row.label else 'bad'}: {row.messages[-1].content}"
    return row.text or (row.messages[-1].content if row.kind == "chat" else "")


def counts_table(counts: dict[str, int | float], what: str, number: str = "rows") -> str:
    """A two-column table of counts, largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return markdown_table([{what: name, number: value} for name, value in ordered])


def length_histogram(
    lengths: Sequence[int] | NDArray[np.integer], title: str, unit: str = "tokens", limit: int | None = None
) -> bytes:
    """A PNG histogram of row lengths; ``limit`` draws the longest length that is allowed."""
    # Imported here: matplotlib takes half a second and only the assets that draw need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    counts, edges = np.histogram(lengths, bins=min(40, max(5, len(np.unique(lengths)))))
    axes.stairs(counts, edges, fill=True, color="#3b6ea5")
    if limit is not None:
        axes.axvline(limit, color="#b33a3a", linestyle="--", label=f"limit {limit}")
        axes.legend()
    axes.set(title=title, xlabel=f"{unit} per row", ylabel="rows")
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()
