"""Personal data and secrets in rows: found by presidio's rules, then replaced as the tenant's policy says.

``pii_rules`` says what is looked for, ``pii_find`` how, ``pii_actions`` what stands in its place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from ftplatform.core.dataset_config import PiiConfig
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.curation.erasure import subject_key
from ftplatform.data.pii.actions import Pseudonyms, hidden, is_stand_in, mask, whole_stand_ins
from ftplatform.data.pii.find import Finder, Span
from ftplatform.data.pii.json_text import is_json, rewrite_json
from ftplatform.data.pii.rules import NAMES, RULES

__all__ = ["DEFAULTS", "ENTITIES", "SECRETS", "Scrubbed", "Scrubber", "mask", "open_scrubber", "wanted_entities"]

ENTITIES: tuple[str, ...] = (*RULES, *NAMES)
"""Every entity that ``dataset.yaml`` may name."""
DEFAULTS: tuple[str, ...] = tuple(rule.entity for rule in RULES.values() if rule.on)
"""Looked for without being named."""
SECRETS: frozenset[str] = frozenset(rule.entity for rule in RULES.values() if rule.secret)
EXAMPLES = 10
_ROUNDS = 3
"""Searches after which stars and pseudonyms give way to placeholders, of which there is always an end."""

Change = Callable[[str, str, bool], str]
"""(text, key it stands under, whether it identifies rather than teaches) -> the text in its place."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    rows: list[Row | None]
    """One per row, in order: the same object where nothing was found, None where the policy leaves the row out."""
    counts: dict[str, int]
    """Findings per entity."""
    examples: list[dict[str, str]]
    """At most ten {source, entity, found}; what was found is masked."""
    subjects: list[tuple[int, bytes]]
    """(row, subject key) of every finding: whom the row was about, for the erasure index."""


def wanted_entities(config: PiiConfig) -> tuple[str, ...]:
    """The entities that the dataset's settings ask to look for.

    Raises:
        InvalidConfig: ``pii.allow`` or ``pii.entities`` names an entity that does not exist, or names of people
            without a ``pii.ner_model``.
    """
    unknown = sorted({*config.allow, *config.entities} - set(ENTITIES))
    if unknown:
        raise InvalidConfig(f"pii names the entities {', '.join(unknown)}: accepted are {', '.join(ENTITIES)}")
    if config.policy == "off":
        return ()
    allowed = {*config.allow, *(entity for entity, action in config.entities.items() if action == "allow")}
    asked = {*DEFAULTS, *config.entities, *(NAMES if config.ner_model else ())} - allowed
    if config.ner_model is None and asked & set(NAMES):
        named = ", ".join(sorted(asked & set(NAMES)))
        raise InvalidConfig(
            f"pii.entities names {named}, which no rule finds: give the folder of a model as pii.ner_model"
        )
    return tuple(entity for entity in ENTITIES if entity in asked)


def open_scrubber(config: PiiConfig, secret: bytes) -> Scrubber:
    """A scrubber for one dataset's settings; opened once per process, it takes about a second.

    ``secret`` is the tenant's key for pseudonyms: the same one gives the same pseudonyms in every dataset and version.

    Raises:
        InvalidConfig: the settings cannot be used (see ``wanted_entities``), the model cannot be opened, or ``secret``
            is empty.
    """
    if not secret:
        raise InvalidConfig("pseudonyms need a key: an empty one was given, and anybody could then undo them")
    return Scrubber(config, secret)


class Scrubber:
    def __init__(self, config: PiiConfig, secret: bytes) -> None:
        entities = wanted_entities(config)
        self._off, self._secret = config.policy == "off", secret
        self._actions = {entity: config.entities.get(entity, config.policy) for entity in entities}
        names = None
        if config.ner_model is not None and entities:
            from ftplatform.data.pii.names import open_names

            model, asked = open_names(config.ner_model), frozenset(entities)

            def names(text: str) -> list[Span]:
                return [span for span in model(text) if span.entity in asked]

        self._finder = Finder(entities, names)
        self._secrets = Finder(() if self._off else [entity for entity in RULES if entity in SECRETS])
        everything = Finder(tuple(RULES)) if entities else self._finder
        self._pseudonyms = Pseudonyms(secret, lambda text: not everything.find(text))

    def scrub(self, rows: Sequence[Row]) -> Scrubbed:
        """Every text of every row, tool calls' arguments, tags, names of speakers and ``extra``, with the findings
        replaced. Tags and names tell rows and speakers apart, so they get pseudonyms where a text gets a placeholder.
        """
        if not self._actions:
            return Scrubbed(list(rows), {}, [], [])
        counts: Counter[str] = Counter()
        examples: list[dict[str, str]] = []
        scrubbed: list[Row | None] = []
        subjects: dict[tuple[int, bytes], None] = {}
        for number, row in enumerate(rows):
            if not _may_hold(row, self._finder):
                scrubbed.append(row)
                continue
            found: list[tuple[str, str]] = []

            def change(text: str, key: str, identifies: bool, found: list[tuple[str, str]] = found) -> str:
                return self._scrub(text, key, identifies, found)

            new = _rewrite(row, change)
            dropped = any(self._actions[entity] == "drop_row" for entity, _ in found)
            scrubbed.append(None if dropped else new)
            for entity, what in found:
                counts[entity] += 1
                subjects[number, subject_key(self._secret, what)] = None
                if len(examples) < EXAMPLES:
                    examples.append({"source": row.source, "entity": entity, "found": hidden(what, entity)})
        return Scrubbed(scrubbed, dict(sorted(counts.items())), examples, list(subjects))

    def find(self, rows: Sequence[Row]) -> list[dict[str, str]]:
        """What of the wanted entities is in the rows, {source, entity, found (masked)}: after ``scrub`` nothing.
        Placeholders, stars and pseudonyms are no findings."""
        return _find(rows, self._finder)

    def find_secrets(self, rows: Sequence[Row]) -> list[dict[str, str]]:
        """What of ``SECRETS`` is in the rows, whatever the settings allow; nothing when ``pii.policy`` is off."""
        return _find(rows, self._secrets)

    def _scrub(self, text: str, key: str, identifies: bool, found: list[tuple[str, str]]) -> str:
        """Searched again until nothing is found, because a replacement can lay bare what its neighbour hid. It ends:
        after some rounds there are only placeholders, and each of those removes characters that are in none."""
        rounds = 0
        while spans := _spans(self._finder, text, key):
            rounds += 1
            for span in reversed(spans):
                what = text[span.start : span.end]
                text = text[: span.start] + self._stand_in(what, span.entity, identifies, rounds) + text[span.end :]
                # What stands for a finding may be part of a later one; that is not another finding.
                if rounds == 1:
                    found.append((span.entity, what))
        return text

    def _stand_in(self, what: str, entity: str, identifies: bool, rounds: int) -> str:
        action = self._actions[entity]
        if rounds <= _ROUNDS and (action == "pseudonym" or (identifies and action in ("replace", "mask"))):
            return self._pseudonyms.of(what, entity)
        if rounds <= _ROUNDS and action == "mask":
            return hidden(what, entity)
        return f"<{entity}>"


def _spans(finder: Finder, text: str, key: str) -> list[Span]:
    """Findings in ``text`` read as ``key: text``, so that ``{"password": "..."}`` reads like a sentence."""
    before = f"{key}: " if key else ""
    spans = []
    for span in finder.find(before + text):
        start, end = max(0, span.start - len(before)), span.end - len(before)
        if end > start and not is_stand_in(text, start, end):
            spans.append(Span(*whole_stand_ins(text, start, end), span.entity, span.score))
    return spans


def _find(rows: Sequence[Row], finder: Finder) -> list[dict[str, str]]:
    left: list[dict[str, str]] = []
    for row in rows:
        if not _may_hold(row, finder):
            continue

        def look(text: str, key: str, identifies: bool, source: str = row.source) -> str:
            for span in _spans(finder, text, key):
                left.append(
                    {"source": source, "entity": span.entity, "found": hidden(text[span.start : span.end], span.entity)}
                )
            return text

        _rewrite(row, look)
    return left


def _may_hold(row: Row, finder: Finder) -> bool:
    """Whether the row is worth the slow way. A backslash can hide anything in JSON (``\\u0040``)."""
    for text in row.contents():
        if finder.may_hold(text) or ("\\" in text and is_json(text)):
            return True
    for key, value in row.tags.items():
        if finder.may_hold(f"{key}: {value}") or finder.may_hold(key):
            return True
    for message in (*row.messages, *row.chosen, *row.rejected):
        if message.name is not None and finder.may_hold(message.name):
            return True
    if row.extra:
        extra = orjson.dumps(row.extra).decode()
        return "\\" in extra or finder.may_hold(extra)
    return False


def _rewrite(row: Row, change: Change) -> Row:
    """The row with ``change`` applied to all a person may have written into it; the same object if nothing changed."""

    def text(value: str) -> str:
        if is_json(value):
            return rewrite_json(value, lambda v, key: change(v, key, False))
        return _same(value, change(value, "", False))

    def named(turns: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(
            m if m.name is None or (name := change(m.name, "", True)) == m.name else replace(m, name=name)
            for m in turns
        )

    row = row.map_contents(text)
    tags = {change(key, "", True): change(value, key, True) for key, value in row.tags.items()}
    if tags != row.tags:
        row = replace(row, tags=tags)
    messages, chosen, rejected = named(row.messages), named(row.chosen), named(row.rejected)
    if (messages, chosen, rejected) != (row.messages, row.chosen, row.rejected):
        row = replace(row, messages=messages, chosen=chosen, rejected=rejected)
    if row.extra:
        before = orjson.dumps(row.extra).decode()
        after = rewrite_json(before, lambda v, key: change(v, key, False))
        if after is not before:
            row = replace(row, extra=json.loads(after))
    return row


def _same(old: str, new: str) -> str:
    return old if new == old else new
