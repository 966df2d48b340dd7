"""Findings in one text: what presidio's recognizers say, at the price of one scan where they would say nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ftplatform.data.pii.fold import Folded, fold
from ftplatform.data.pii.prefilter import open_prefilter
from ftplatform.data.pii.rules import LEAST_SCORE, RULES, conditions, context_words, load_recognizers

_WORDS_BEFORE = 5
_CHARACTERS_BEFORE = 100
_WITH_CONTEXT = 0.35
"""Presidio's defaults (``LemmaContextAwareEnhancer``): five words before, at least 0.4, or 0.35 more."""

Names = Callable[[str], list["Span"]]


@dataclass(frozen=True, slots=True)
class Span:
    """A finding in a text: characters ``start`` to ``end``."""

    start: int
    end: int
    entity: str
    score: float


class Finder:
    """Finds some entities. Opening one takes about a second for presidio, once per process."""

    def __init__(self, entities: Sequence[str], names: Names | None = None) -> None:
        self.entities = tuple(entity for entity in entities if entity in RULES)
        self._which = open_prefilter(conditions(self.entities)) if self.entities else None
        self._names = names

    def may_hold(self, text: str) -> bool:
        """False only when ``find`` finds nothing."""
        return self._names is not None or (self._which is not None and bool(self._which(fold(text).text)))

    def find(self, text: str) -> list[Span]:
        """Findings in order of place; overlapping ones are one span, named after the surest of them, a secret before
        anything else, then the longest."""
        folded = fold(text)
        hits = self._which(folded.text) if self._which is not None else []
        found = [span for i in hits for span in recognize(folded.text, self.entities[i])]
        spans = _unfold(found, folded) + (self._names(text) if self._names is not None else [])
        return merge(spans) if spans else []


def recognize(text: str, entity: str) -> list[Span]:
    """What presidio's recognizer of ``entity`` finds in a folded text, with nothing in front of it."""
    results: list[Any] = load_recognizers()[entity].analyze(text, [entity], None)
    spans = [Span(r.start, r.end, entity, r.score) for r in results if r.score >= LEAST_SCORE]
    if RULES[entity].near:
        spans += [
            Span(r.start, r.end, entity, max(LEAST_SCORE, r.score + _WITH_CONTEXT))
            for r in results
            if r.score < LEAST_SCORE and _is_near(text[max(0, r.start - _CHARACTERS_BEFORE) : r.start], entity)
        ]
    return spans


def _is_near(before: str, entity: str) -> bool:
    words = " ".join(before.split()[-_WORDS_BEFORE:])
    return re.search(rf"(?<!\w){context_words(entity)}(?!\w)", words, re.IGNORECASE) is not None


def _unfold(spans: list[Span], folded: Folded) -> list[Span]:
    if folded.places is None:
        return spans
    return [Span(*folded.original(s.start, s.end), s.entity, s.score) for s in spans]


_ORDER = {entity: i for i, entity in enumerate(RULES)}


def _rank(span: Span) -> tuple[float, bool, int, int]:
    secret = span.entity in RULES and RULES[span.entity].secret
    return span.score, secret, span.end - span.start, _ORDER.get(span.entity, -1)


def merge(spans: list[Span]) -> list[Span]:
    """Overlapping spans joined, so that no part of what was found stays behind."""
    merged: list[tuple[int, int, list[Span]]] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1][1]:
            start, end, members = merged[-1]
            merged[-1] = (start, max(end, span.end), [*members, span])
        else:
            merged.append((span.start, span.end, [span]))
    names = (max(members, key=_rank) for _, _, members in merged)
    return [Span(start, end, best.entity, best.score) for (start, end, _), best in zip(merged, names, strict=True)]
