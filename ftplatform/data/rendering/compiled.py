"""The fast renderer: what a chat template does with one row is learned once and repeated for rows of the same form.

A form is the roles of a conversation with its tools. Of its first row the template is run on traced texts
(``data/rendering/traced.py``); out come the literal parts, the places of the row's texts between them, the conditions under
which another row is rendered the same way, and the spans as sums of these. Such a plan fills a row by joining strings.
Rows that meet the conditions of no plan, calls of tools, and templates that do what cannot be followed go through
Jinja: slower, never different. A plan is compared with Jinja on its first rows before its own result is used, and on
every ``CHECKED_EVERY``-th row for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message
from ftplatform.data.rendering.jinja import Spans, Turn
from ftplatform.data.rendering.traced import Condition, Conditions, NotTraceable, Slot, Text, value_of

Render = Callable[[Sequence[Turn], Sequence[dict[str, Any]], bool], tuple[Any, Spans]]
Place = tuple[int, int]
"""A character position: after so many slots, plus so many literal characters."""

PROBATION = 4
"""Rows for which a new plan and Jinja both render."""
CHECKED_EVERY = 1024
_MOST_PLANS = 8
_MOST_TRIES = 32
_MOST_FORMS = 4096
"""Beyond these a dataset's rows are so different that learning costs more than Jinja."""


@dataclass(slots=True)
class Plan:
    parts: tuple[str | Slot, ...]
    conditions: list[Condition]
    spans: list[tuple[Place, Place]]
    used: int = 0
    _slots: list[Slot] = field(init=False)
    _text: list[str] = field(init=False)
    _places: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._slots = [part for part in self.parts if not isinstance(part, str)]
        self._places = [i for i, part in enumerate(self.parts) if not isinstance(part, str)]
        self._text = [part if isinstance(part, str) else "" for part in self.parts]

    def fill(self, texts: Sequence[str]) -> tuple[str, Spans] | None:
        """The row rendered, or None when another path of the template would be taken."""
        for condition in self.conditions:
            if not condition(texts):
                return None
        pieces, passed, total = self._text.copy(), [0], 0
        for place, slot in zip(self._places, self._slots, strict=True):
            value = value_of(slot, texts) if slot[1] else texts[slot[0]]
            if not value:  # where a span ends next to an empty text is not decided by its place
                return None
            pieces[place] = value
            total += len(value)
            passed.append(total)
        return "".join(pieces), [(passed[a] + x, passed[b] + y) for (a, x), (b, y) in self.spans]


@dataclass(slots=True)
class _Form:
    plans: list[Plan] = field(default_factory=list)
    tries: int = 0
    by_jinja: bool = False


class Plans:
    """``render(messages, tools, add_generation_prompt)`` gives what ``exact`` gives; ``traced`` is its tracing twin."""

    def __init__(self, exact: Render, traced: Render, stops: Sequence[str], turns: Callable[..., list[Turn]]) -> None:
        self._exact = exact
        self._traced = traced
        self._stops = tuple(stops)
        self._turns = turns
        self._forms: dict[Any, _Form] = {}
        self.by_jinja = 0
        """Rows that Jinja rendered, those of learning and checking among them."""

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], prompt: bool) -> tuple[str, Spans]:
        """Raises InvalidConfig as the template does."""
        texts: list[str] = []
        key: list[Any] = [prompt, orjson.dumps(tools) if tools else None]
        for message in messages:
            texts.append(message.content)
            if message.name is None and message.tool_call_id is None and not message.tool_calls:
                key.append(message.role)
            elif message.tool_calls:
                return self._by_jinja(messages, tools, prompt)
            else:
                key.append((message.role, message.name is not None, message.tool_call_id is not None))
                texts += [text for text in (message.name, message.tool_call_id) if text is not None]
        form = self._forms.get(identity := tuple(key))
        if form is None:
            if len(self._forms) == _MOST_FORMS:
                return self._by_jinja(messages, tools, prompt)
            form = self._forms[identity] = _Form()
        for plan in form.plans:
            made = plan.fill(texts)
            if made is not None:
                plan.used += 1
                if plan.used > PROBATION and plan.used % CHECKED_EVERY:
                    return made
                return self._checked(made, plan, form, messages, tools, prompt)
        exact = self._by_jinja(messages, tools, prompt)
        if not form.by_jinja and form.tries < _MOST_TRIES and len(form.plans) < _MOST_PLANS:
            form.tries += 1
            learned = self._learn(messages, tools, prompt, texts)
            if learned is not None and learned.fill(texts) == exact:
                form.plans.append(learned)
        return exact

    def _by_jinja(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], prompt: bool
    ) -> tuple[str, Spans]:
        self.by_jinja += 1
        return self._exact(self._turns(messages), tools, prompt)

    def _checked(
        self,
        made: tuple[str, Spans],
        plan: Plan,
        form: _Form,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        prompt: bool,
    ) -> tuple[str, Spans]:
        exact = self._by_jinja(messages, tools, prompt)
        if made == exact:
            return exact
        if plan.used > PROBATION:
            raise RuntimeError(
                f"the fast renderer gave another text than the chat template for a conversation with the roles "
                f"{', '.join(m.role for m in messages)}; rows rendered before may be wrong. This is a fault of the "
                "platform, not of the data: report it with the template"
            )
        form.plans.clear()
        form.by_jinja = True
        return exact

    def _learn(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], prompt: bool, texts: Sequence[str]
    ) -> Plan | None:
        conditions: Conditions = {}
        numbers = iter(range(len(texts)))
        turns = self._turns(messages)
        for turn in turns:
            for name in ("content", "name", "tool_call_id"):
                if name in turn:
                    turn[name] = Text.slot(next(numbers), turn[name], conditions)
        try:
            text, spans = self._traced(turns, tools, prompt)
            parts = text.parts if isinstance(text, Text) else (text,)
            places = [(_place(start, parts, texts), _place(end, parts, texts)) for start, end in spans]
        except (NotTraceable, InvalidConfig):  # Jinja did render it: what the twin refuses it cannot follow
            return None
        # Where a turn ends is found by its stop token; a text that holds one is left to Jinja.
        stops = [partial(_without, stop) for stop in self._stops]
        return Plan(parts, [*conditions.values(), *stops], places)


def _place(position: int, parts: Sequence[str | Slot], texts: Sequence[str]) -> Place:
    at = slots = literal = 0
    for part in parts:
        if isinstance(part, str):
            if at <= position <= at + len(part):
                return slots, literal + position - at
            at, literal = at + len(part), literal + len(part)
        else:
            if position == at:
                break
            at, slots = at + len(value_of(part, texts)), slots + 1
    if position != at:
        raise NotTraceable
    return slots, literal


def _without(stop: str, texts: Sequence[str]) -> bool:
    return all(stop not in text for text in texts)
