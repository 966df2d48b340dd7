"""Personal data and secrets: found by presidio's rules (patterns and check digits, no model), replaced by ``<ENTITY>``.

Presidio reads about a thousand rows per CPU second, so a cheap pattern stands in front of each recognizer. Each of
them is a necessary condition of what its recognizer can find: clean text costs a few searches and findings stay
presidio's own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftplatform.core.dataset_config import PiiConfig
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Row
from ftplatform.data.pii_rules import NEEDED, load_recognizers

ENTITIES = tuple(NEEDED)
LEAST_SCORE = 0.4
"""Presidio's confidence below which a match does not count; a phone number without context has 0.4, nine bare digits
0.05."""
EXAMPLES = 10
_PREFILTERS = {entity: re.compile(pattern) for entity, pattern in NEEDED.items()}


@dataclass(frozen=True, slots=True)
class Span:
    """A finding in a text: characters ``start`` to ``end``."""

    start: int
    end: int
    entity: str
    score: float


def find(text: str, entities: Sequence[str] = ENTITIES) -> list[Span]:
    """Findings in order of place; overlapping ones are one span, named after the surest (then longest) of them."""
    found: list[Span] = []
    for entity in entities:
        if _PREFILTERS[entity].search(text):
            found += recognize(text, entity)
    return merge(found)


def recognize(text: str, entity: str) -> list[Span]:
    """What presidio's recognizer of ``entity`` finds, without the pattern in front of it."""
    results: list[Any] = load_recognizers()[entity].analyze(text, [entity], None)
    return [Span(r.start, r.end, entity, r.score) for r in results if r.score >= LEAST_SCORE]


def merge(spans: list[Span]) -> list[Span]:
    """Overlapping spans joined, so that no part of what was found stays behind."""
    merged: list[tuple[int, int, list[Span]]] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1][1]:
            start, end, members = merged[-1]
            merged[-1] = (start, max(end, span.end), [*members, span])
        else:
            merged.append((span.start, span.end, [span]))
    names = (max(members, key=lambda s: (s.score, s.end - s.start, s.entity)) for _, _, members in merged)
    return [Span(start, end, best.entity, best.score) for (start, end, _), best in zip(merged, names, strict=True)]


def scrub_text(text: str, entities: Sequence[str] = ENTITIES) -> tuple[str, list[tuple[str, str]]]:
    """The text with every finding replaced, and (entity, what was replaced) in order.

    Searched again until nothing is found, because a replacement can lay bare what its neighbour hid; every round
    removes characters that no replacement holds, so it ends.
    """
    removed: list[tuple[str, str]] = []
    while spans := find(text, entities):
        removed += [(s.entity, text[s.start : s.end]) for s in spans]
        for span in reversed(spans):
            text = f"{text[: span.start]}<{span.entity}>{text[span.end :]}"
    return text, removed


def wanted_entities(config: PiiConfig) -> tuple[str, ...]:
    """The entities that the dataset's settings ask to replace.

    Raises:
        InvalidConfig: ``pii.allow`` names an entity that does not exist.
    """
    unknown = sorted(set(config.allow) - set(ENTITIES))
    if unknown:
        raise InvalidConfig(f"pii.allow names {', '.join(unknown)}: accepted are {', '.join(ENTITIES)}")
    return () if config.policy == "off" else tuple(e for e in ENTITIES if e not in config.allow)


def scrub(rows: Sequence[Row], config: PiiConfig) -> tuple[list[Row], dict[str, int], list[dict[str, str]]]:
    """Rows with every finding in message contents replaced.

    Returns:
        The rows (the same objects where nothing was found), findings per entity, and at most ten examples
        {source, entity, found} in which what was found is masked to its first and last character.
    """
    entities = wanted_entities(config)
    counts: Counter[str] = Counter()
    examples: list[dict[str, str]] = []
    if not entities:
        return list(rows), {}, []
    scrubbed: list[Row] = []
    for row in rows:
        messages = []
        for message in row.messages:
            text, removed = scrub_text(message.content, entities)
            messages.append(replace(message, content=text) if removed else message)
            for entity, what in removed:
                counts[entity] += 1
                if len(examples) < EXAMPLES:
                    examples.append({"source": row.source, "entity": entity, "found": mask(what)})
        changed = any(new is not old for new, old in zip(messages, row.messages, strict=True))
        scrubbed.append(replace(row, messages=tuple(messages)) if changed else row)
    return scrubbed, dict(sorted(counts.items())), examples


def find_secrets(rows: Sequence[Row], config: PiiConfig) -> list[dict[str, str]]:
    """Every finding still in the rows, {source, entity, found (masked)}: the proof behind the check that none is
    left."""
    entities = wanted_entities(config)
    return [
        {"source": row.source, "entity": span.entity, "found": mask(message.content[span.start : span.end])}
        for row in rows
        for message in row.messages
        for span in find(message.content, entities)
    ]


def mask(text: str) -> str:
    """First and last character, the rest as stars; never longer than 24 characters, and nothing of a short text."""
    return "*" * len(text) if len(text) < 6 else f"{text[0]}{'*' * min(22, len(text) - 2)}{text[-1]}"
