"""A training's curves as one picture."""

from __future__ import annotations

import io
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#3b6ea5", "#b35c00", "#3f7f4f", "#9aa5b1"
_COLUMNS = 3
_SMOOTH = 0.05
"""Share of the steps that a point of the smoothed line is the mean of."""
_FEW = 20
"""Up to so many steps every one is marked and nothing is smoothed."""
_WIDE = 30.0
"""Largest over median from which a scale is logarithmic: a divergence would flatten everything before it."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: tuple[tuple[str, str], ...]
    """Name of the figure, and its name in the legend."""
    unit: str = ""
    smooth: bool = False
    scale: float = 1.0
    log: bool = False
    """Whether a logarithmic scale is allowed."""


_PANELS = (
    Panel("loss", (("loss", "training"), ("eval_loss", "validation")), smooth=True, log=True),
    Panel("gradient norm", (("grad_norm", ""),), smooth=True, log=True),
    Panel("learning rate", (("learning_rate", ""),)),
    Panel("tokens per second", (("tokens_per_second", "all"), ("supervised_tokens_per_second", "supervised"))),
    Panel("memory", (("memory_gb", "peak"), ("memory_reserved_gb", "reserved")), unit="GB"),
    Panel("model FLOPs utilisation", (("mfu", ""),), unit="%", scale=100.0),
    Panel("rewards", (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")), smooth=True),
    Panel("reward margin", (("rewards/margins", "training"), ("eval_rewards/margins", "validation")), smooth=True),
    Panel("pairs in the right order", (("rewards/accuracies", "training"), ("eval_rewards/accuracies", "validation")), "%", True, 100.0),
    Panel("reward", (("reward", "training"), ("eval_reward", "validation")), smooth=True),
    Panel("tokens of an answer", (("completions/mean_length", ""),), smooth=True),
    Panel("divergence (KL)", (("kl", ""),), smooth=True),
)  # fmt: skip


def training_curves(metrics: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with a panel for everything that the steps told; panels without a figure are left out.

    ``metrics``: a dict per step with ``step`` and figures, as in the artifact ``metrics``. Not finite ones leave a gap.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    told = {name for line in metrics for name in line}
    panels = [panel for panel in _PANELS if panel.lines[0][0] in told]
    rows = math.ceil(len(panels) / _COLUMNS) or 1
    figure = Figure(figsize=(9.6, 2.35 * rows), dpi=90, layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, metrics)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - _COLUMNS) : len(panels)]:
        axes.set_xlabel("optimizer step", fontsize=8)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def _draw(axes: Any, panel: Panel, metrics: Sequence[dict[str, Any]]) -> None:
    every: list[float] = []
    for (name, label), colour in zip(panel.lines, (BLUE, ORANGE), strict=False):
        points = [(line["step"], line[name] * panel.scale) for line in metrics if line.get(name) is not None]
        points = [(step, value) for step, value in points if math.isfinite(value)]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        every += values
        if name.startswith("eval_"):
            axes.plot(
                steps, values, "o-" if len(values) > 1 else "o", color=colour, ms=3.5, lw=1, label=label, zorder=3
            )
        elif len(values) <= _FEW:
            axes.plot(steps, values, ".-", color=colour, ms=5, lw=1.2, label=label)
        elif panel.smooth:
            axes.plot(steps, values, color=GREY, lw=0.7, alpha=0.7)
            axes.plot(steps, smoothed(values), color=colour, lw=1.6, label=label)
        else:
            axes.plot(steps, values, color=colour, lw=1.1, label=label)
    _dress(axes, panel, every)


def _dress(axes: Any, panel: Panel, values: Sequence[float]) -> None:
    axes.set_title(panel.title + (f" ({panel.unit})" if panel.unit else ""), fontsize=9, loc="left")
    axes.tick_params(labelsize=7.5, length=2)
    axes.grid(alpha=0.25, lw=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if values and panel.log and min(values) > 0 and max(values) > _WIDE * statistics.median(values):
        axes.set_yscale("log")
    elif values and min(values) >= 0:
        # From zero, so that noise does not look like a trend; a little air above a flat line.
        axes.set_ylim(0, max(values) * 1.08 or 1.0)
    if panel.title == "learning rate":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes.get_legend_handles_labels()
    if any(labels) and len(handles) > 1:
        axes.legend(fontsize=7, frameon=False, loc="best")


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean of a twentieth of the values around each: centred, because one that only looks back lags behind a falling loss."""
    reach = max(1, round(len(values) * _SMOOTH / 2))
    sums = [0.0, *itertools.accumulate(values)]
    ends = [(max(0, at - reach), min(len(values), at + reach + 1)) for at in range(len(values))]
    return [(sums[end] - sums[begin]) / (end - begin) for begin, end in ends]
