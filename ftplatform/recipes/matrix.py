"""The table of what trains with what, as ``rules.compatible`` decides; ``docs/recipes.md`` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from ftplatform.core.methods import BUILT_IN
from ftplatform.core.recipe import Parameterisation, TrainingConfig
from ftplatform.recipes.rules import compatible

FORMS = tuple(
    ("quantization", value)
    if value in get_args(TrainingConfig.model_fields["quantization"].annotation)
    else ("qat", value)
    for value in ("none", "nf4", "int8", "int4", "int8-int4")
)
"""Field of ``training`` and its value, one column each."""


def combinations() -> Iterator[tuple[str, str, str, str, str | None]]:
    """(method, parameterisation, quantization, qat, why not) of every built-in method."""
    for method in BUILT_IN:
        for parameterisation in get_args(Parameterisation):
            for field, value in FORMS:
                parts = {"quantization": "none", "qat": "none", field: value}
                yield method, parameterisation, *parts.values(), compatible(method, parameterisation, **parts)


def table() -> str:
    """Markdown: a row per method and parameterisation, ``yes`` or empty; below it each reason once."""
    heads = [value if value == "none" else f"{field} {value}" for field, value in FORMS]
    lines = [f"| method | parameterisation | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    rows: dict[tuple[str, str], list[str]] = {}
    for method, parameterisation, _, _, why in combinations():
        rows.setdefault((method, parameterisation), []).append("" if why else "yes")
    merged: dict[tuple[str, str], list[str]] = {}
    for (method, parameterisation), cells in rows.items():
        merged.setdefault((parameterisation, " | ".join(cells)), []).append(method)
    lines += [f"| {', '.join(methods)} | {kind} | {cells} |" for (kind, cells), methods in merged.items()]
    return "\n".join(lines)
