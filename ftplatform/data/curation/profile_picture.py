"""A dataset at a glance: lengths, answers, languages, and what became of the rows, in one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftplatform.data.text import shorten

if TYPE_CHECKING:
    import pandas as pd

_BLUE, _RED, _GREY = "#3b6ea5", "#b33a3a", "#9aa5b1"
_BARS = 10
_LEAST_BARS = 6


def draw_profile(
    profile: pd.DataFrame,
    answers: Mapping[str, int],
    languages: Mapping[str, int],
    kept: Mapping[str, int],
    removed: Mapping[str, int],
) -> bytes:
    """PNG of four panels.

    ``profile`` is the frame of ``ftplatform.data.curation.schema``; ``answers`` counts short answers, ``kept`` rows by split,
    ``removed`` rows by reason.
    """
    # Imported here: matplotlib takes half a second and only the assets that draw need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    axes = figure.subplots(2, 2)
    _lengths(axes[0, 0], profile)
    _bars(axes[0, 1], *_most(answers, "short answers"), _BLUE)
    _bars(axes[1, 0], *_most(languages, "languages"), _BLUE)
    colors = [_BLUE] * len(kept) + [_RED] * len(removed)
    _bars(axes[1, 1], [*kept.items(), *removed.items()], "rows kept and left out", colors)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def _lengths(axes: Any, profile: pd.DataFrame) -> None:
    axes.set(title="length of rows", xlabel="characters", ylabel="rows")
    if not len(profile):
        return
    for column, color, name in (("user_chars", _GREY, "user"), ("assistant_chars", _BLUE, "assistant")):
        values = profile[column].to_numpy()
        # Lengths spread over powers of ten: on a linear axis one long row would hide all others.
        bins = np.geomspace(1, max(10, values.max()) + 1, 40)
        axes.hist(np.maximum(values, 1), bins=bins, color=color, alpha=0.7, label=name)
    axes.set_xscale("log")
    axes.legend()


def _most(counts: Mapping[str, int], what: str) -> tuple[list[tuple[str, int]], str]:
    """The largest counts, and a title that says what the others come to: as a bar they would dwarf the rest."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[_BARS:]
    others = f" ({len(rest)} others: {sum(count for _, count in rest):,} rows)" if rest else ""
    return ordered[:_BARS], f"{what}{others}"


def _bars(axes: Any, counts: Sequence[tuple[str, int]], title: str, color: Any) -> None:
    axes.set_title(title)
    if not counts:
        axes.text(0.5, 0.5, "none", ha="center", va="center", color=_GREY)
        axes.set_axis_off()
        return
    # A label is customer text: '$' would start a formula.
    names = [shorten(name, 28).replace("$", r"\$") for name, _ in counts]
    places = -np.arange(len(names))
    bars = axes.barh(places, [count for _, count in counts], color=color)
    axes.set_yticks(places, names, fontsize=8)
    axes.bar_label(bars, [f"{count:,}" for _, count in counts], padding=3, fontsize=8)
    axes.margins(x=0.15)
    # Room for some bars even where there is one, which would fill the panel.
    axes.set_ylim(min(-len(names), -_LEAST_BARS) + 0.4, 0.6)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
