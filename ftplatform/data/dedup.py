"""Exact de-duplication after normalisation (NFC, outer white space, case)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from ftplatform.core.rows import Row
from ftplatform.data.keys import answer, question
from ftplatform.data.text import shorten


@dataclass(frozen=True, slots=True)
class Deduplicated:
    rows: list[Row]
    """The first of every group of equal rows, in their old order."""
    dropped: int
    conflicting: list[dict[str, Any]]
    """Prompts that have several answers: {prompt, answers, sources}; their rows are kept."""


def deduplicate(rows: list[Row]) -> Deduplicated:
    """Drop rows whose question and answer are those of an earlier row, and report questions with several answers."""
    kept: dict[tuple[str, str], Row] = {}
    by_question: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        key = (question(row), answer(row))
        if key not in kept:
            kept[key] = row
            by_question[key[0]].append(row)
    conflicting = [
        {
            "prompt": shorten(group[0].messages[-2].content) if len(group[0].messages) > 1 else "",
            "answers": ", ".join(shorten(r.messages[-1].content, 40) for r in group[:4]),
            "sources": ", ".join(r.source for r in group[:4]),
        }
        for group in by_question.values()
        if len(group) > 1
    ]
    return Deduplicated(list(kept.values()), len(rows) - len(kept), conflicting)
