"""The report for people: Markdown tables and a picture. Control plane; matplotlib loads inside its function."""

from __future__ import annotations

import io

from ftplatform.core.manifests import Comparison, EvalReport

COLOURS = {"non-inferior": "#1a7f37", "regression": "#cf222e", "insufficient": "#9a6700"}
INK, MUTED, LINE = "#1f2328", "#656d76", "#d0d7de"


def score_table(report: EvalReport) -> str:
    """Markdown: a row per suite and reference; shares in percent, differences and bounds in percentage points."""
    champion = "champion" in report.scores
    columns = [
        "suite",
        "items",
        "base",
        *(["champion"] if champion else []),
        "candidate",
        "against",
        "difference",
        "95 % bounds",
    ]
    lines = [_row([*columns, "margin", "outcome"]), _row(["---"] * (len(columns) + 2))]
    for c in _in_suite_order(report):
        models = ["base", *(["champion"] if champion else []), "candidate"]
        scores = [f"{report.scores[model][c.suite].score:.1%}" for model in models]
        difference, bounds = f"{100 * c.difference:+.1f}", f"{100 * c.lower:+.1f} to {100 * c.upper:+.1f}"
        outcome = c.outcome if c.outcome == "non-inferior" else f"**{c.outcome}**"
        lines.append(
            _row([c.suite, str(c.n), *scores, c.reference, difference, bounds, f"{-100 * c.margin:+.1f}", outcome])
        )
    return "\n".join(lines) + "\n"


def slice_table(report: EvalReport) -> str:
    """Markdown: a row per slice, a column per model; slices inform, they do not gate."""
    models = [model for model in ("base", "champion", "candidate") if model in report.scores]
    lines = [_row(["slice", *models]), _row(["---"] * (len(models) + 1))]
    lines += [_row([name, *(f"{scores[model]:.1%}" for model in models)]) for name, scores in report.slices.items()]
    return "\n".join(lines) + "\n"


def forest_plot(report: EvalReport) -> bytes:
    """PNG: each comparison's difference with its bounds, and the margin that the lower bound must stay right of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = _in_suite_order(report)
    figure = Figure(figsize=(8.6, 1.35 + 0.42 * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(0, color=LINE, linewidth=1.2, zorder=1)
    for place, c in enumerate(rows):
        colour = COLOURS[c.outcome]
        axes.plot(
            [100 * c.lower, 100 * c.upper],
            [place, place],
            color=colour,
            linewidth=2.4,
            solid_capstyle="round",
            zorder=2,
        )
        axes.plot(100 * c.difference, place, "o", color=colour, markersize=7, zorder=3)
        margin = -100 * c.margin
        axes.plot(
            [margin, margin], [place - 0.36, place + 0.36], color=INK, linewidth=1.4, linestyle=(0, (2, 1.5)), zorder=2
        )
        axes.annotate(
            f"{c.outcome}   {c.reference_score:.1%} → {c.candidate_score:.1%}   n={c.n}",
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=colour,
        )
    axes.set_yticks(range(len(rows)), [f"{c.suite} against {c.reference}" for c in rows], fontsize=9, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(
        "candidate minus reference, percentage points; bar: 95 % bounds; dashes: margin", fontsize=8.5, color=MUTED
    )
    axes.set_title(f"verdict: {report.verdict}", loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5, colors=MUTED)
    axes.grid(axis="x", color=LINE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _in_suite_order(report: EvalReport) -> list[Comparison]:
    """Comparisons of one suite side by side, suites as the plan orders them."""
    order = list(dict.fromkeys(c.suite for c in report.comparisons))
    return sorted(report.comparisons, key=lambda c: (order.index(c.suite), c.reference))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
