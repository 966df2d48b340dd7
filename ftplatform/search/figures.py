"""A search as pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import MAXIMIZED, Choices, Objective
from ftplatform.core.search_result import Trial

_BEST, _DONE, _PRUNED, _FAILED = "#b35c00", "#3b6ea5", "#999999", "#b33a3a"
_COLUMNS = 3
_WIDEST = 16


def history_plot(trials: Sequence[Trial], objective: Objective) -> bytes:
    """A PNG: the score of every complete trial in the order they were begun, and the best so far; the others as marks below."""
    figure = _figure(6.4, 3.0)
    axes = figure.add_subplot()
    done = _complete(trials)
    axes.plot([t.number for t in done], [t.score for t in done], "o", color=_DONE, label="complete")
    better = max if objective in MAXIMIZED else min
    best = [better(one.score or 0.0 for one in done[: place + 1]) for place in range(len(done))]
    axes.step([t.number for t in done], best, where="post", color=_BEST, label="best so far")
    for state, colour, mark in (("pruned", _PRUNED, "|"), ("failed", _FAILED, "x")):
        numbers = [t.number for t in trials if t.state == state]
        if numbers:
            # On the axis itself: they have no score.
            axes.plot(
                numbers, [0.02] * len(numbers), mark, color=colour, label=state, transform=axes.get_xaxis_transform()
            )
    axes.set(xlabel="trial", ylabel=objective.replace("_", " "))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    # Above the axes: inside, its marks would be taken for trials.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return _png(figure)


def importance_plot(importance: Mapping[str, float]) -> bytes:
    """A PNG: a bar per parameter, the most important on top."""
    figure = _figure(6.4, 0.9 + 0.35 * len(importance))
    axes = figure.add_subplot()
    names = list(importance)[::-1]
    bars = axes.barh(names, [importance[name] for name in names], color=_DONE)
    axes.bar_label(bars, [f"{100 * importance[name]:.0f} %" for name in names], padding=3)
    axes.set(xlim=(0, 1.12), xlabel="share of what makes a trial one of the best")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def values_plot(recipe: Recipe, trials: Sequence[Trial], objective: Objective) -> bytes:
    """A PNG: for each parameter, score against value; the later a trial, the darker."""
    assert recipe.search is not None
    space, done = recipe.search.space, _complete(trials)
    rows = -(-len(space) // _COLUMNS)
    figure = _figure(2.6 * min(len(space), _COLUMNS) + 0.6, 2.4 * rows + 0.3)
    grid = figure.subplots(rows, min(len(space), _COLUMNS), sharey=True, squeeze=False)
    for axes, (name, values) in zip(grid.flat, space.items(), strict=False):
        found: list[Any] = [trial.parameters[name] for trial in done]
        if isinstance(values, Choices):
            texts = [_word(choice) for choice in values.choices]
            found = [list(values.choices).index(value) for value in found]
            axes.set_xticks(range(len(texts)), texts, rotation=20 if max(map(len, texts)) > 6 else 0)
            axes.set_xlim(-0.5, len(texts) - 0.5)
        elif values.log:
            axes.set_xscale("log")
        axes.scatter(found, [t.score for t in done], c=[t.number for t in done], cmap="Blues", vmin=-len(trials), s=22)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(objective.replace("_", " "))
    return _png(figure)


def _word(choice: Any) -> str:
    text = ", ".join(map(str, choice)) if isinstance(choice, list | tuple) else json.dumps(choice).strip('"')
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _complete(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state == "complete"]


def _figure(width: float, height: float) -> Any:
    # Imported here: matplotlib takes half a second and only who draws needs it.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()
