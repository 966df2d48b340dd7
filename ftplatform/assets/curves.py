"""Training curves as a picture."""

from __future__ import annotations

import io
from typing import Any


def loss_curve(metrics: list[dict[str, Any]]) -> bytes:
    """A PNG: loss per step on the left axis, with validation where it was measured, learning rate on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.0), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    trained = [line for line in metrics if "loss" in line]
    axes.plot([m["step"] for m in trained], [m["loss"] for m in trained], color="#3b6ea5", label="training loss")
    held = [line for line in metrics if "eval_loss" in line]
    if held:
        axes.plot(
            [m["step"] for m in held], [m["eval_loss"] for m in held], "o-", color="#b35c00", label="validation loss"
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(
        [m["step"] for m in trained],
        [m["learning_rate"] for m in trained],
        color="#999999",
        linewidth=1,
        label="learning rate",
    )
    rate.set_ylabel("learning rate")
    lines, labels = axes.get_legend_handles_labels()
    more_lines, more_labels = rate.get_legend_handles_labels()
    axes.legend(lines + more_lines, labels + more_labels, loc="upper right", frameon=False)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()
