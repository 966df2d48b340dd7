"""Chat templates: messages -> the text a model reads, and which characters of it are the assistant's.

The environment is the one transformers gives chat templates (sandboxed, trimmed blocks, loop controls, ``tojson``
without HTML escapes, ``raise_exception``), so that training renders what every serving engine renders.
``strftime_now`` is left out on purpose: a template that falls back to a fixed date without it gives the same tokens
every day, and one that cannot is refused.

``render`` and ``render_with_spans`` run Jinja; ``render_rows`` gives the same for many rows by ``data/rendering/compiled.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.rendering.compiled import Plans
from ftplatform.data.rendering.jinja import Program, Spans, Turn
from ftplatform.data.rendering.traced import begins, plain, same

_MARKER = re.compile(r"\{%[-+]?\s*generation\b")


@dataclass(frozen=True, slots=True)
class Rendered:
    """One text as the model reads it; ``spans`` are the characters that carry loss, one range per trained turn."""

    text: str
    spans: Spans
    rejected: Rendered | None = field(default=None, kw_only=True)
    """Preference rows only: the prompt with the rejected continuation; ``text`` is the prompt with the chosen one."""


class ChatTemplate:
    """A chat template. Not safe for use by several threads at a time.

    ``special_tokens`` are the variables ``bos_token``, ``eos_token`` and so on; ``stop_tokens`` the texts that end an
    assistant's turn (``eos_token`` when not given). ``marked`` is a template that renders the same text and has the
    generation markers that ``source`` lacks (``data/rendering/families.py`` knows some): the text is always that of ``source``,
    the spans are those of ``marked`` wherever both texts agree.

    Raises:
        InvalidConfig: a source is not a template.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        stop_tokens: Sequence[str] = (),
        marked: str | None = None,
    ) -> None:
        self.source = source
        self.special_tokens = dict(special_tokens)
        eos = self.special_tokens.get("eos_token")
        self.stop_tokens = tuple(stop_tokens) or ((eos,) if eos else ())
        self.has_markers = bool(_MARKER.search(source))
        self.marked = None if self.has_markers else marked
        self._program = Program(source, self.special_tokens)

    @cached_property
    def _marked_program(self) -> Program | None:
        return None if self.marked is None else Program(self.marked, self.special_tokens)

    @cached_property
    def _plans(self) -> Plans:
        return Plans(self._exact, self._traced, self.stop_tokens, turns_of)

    @property
    def rows_by_jinja(self) -> int:
        """How many texts of ``render_rows`` went through Jinja so far."""
        return self._plans.by_jinja

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the rendering; training and serving must have the same."""
        return digest_json({"source": self.source, "special_tokens": self.special_tokens})

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[dict[str, Any]] = (),
    ) -> str:
        """The text of a conversation.

        Raises:
            InvalidConfig: the template refuses the messages, or needs something that is not offered.
        """
        return self._program.run(turns_of(messages), tools, add_generation_prompt)[0]

    def render_with_spans(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> tuple[str, Spans]:
        """The text and, for each assistant turn, the characters the model has to produce, the stop token among them.

        Taken from the template's ``{% generation %}`` markers; without markers, from the difference between the text
        up to the turn with a generation prompt and the text including it, cut after the stop token.

        Raises:
            InvalidConfig: neither way is possible with this template.
        """
        return self._exact(turns_of(messages), tools, False)

    def render_rows(self, rows: Sequence[Row]) -> list[Rendered]:
        """What the model reads and learns of every row, whatever its kind; equal to Jinja's rendering.

        * chat: every assistant turn whose ``train`` is set is learned; labelled: the last answer alone;
        * preference: the assistant turns of ``chosen`` and of ``rejected``, after the same prompt;
        * prompt: the text that asks for an answer (generation prompt included); nothing is learned;
        * text: the document and the end-of-text token, all of it learned.

        Raises:
            InvalidConfig: the template refuses a row; names its source.
        """
        render = self._plans.render
        done: list[Rendered] = []
        for row in rows:
            try:
                if row.kind == "chat":
                    text, spans = render(row.messages, row.tools, False)
                    flags = [m.train for m in row.messages if m.role == "assistant"]
                    done.append(Rendered(text, spans if all(flags) else _kept(spans, flags)))
                else:
                    done.append(self._other_kind(row))
            except InvalidConfig as error:
                raise InvalidConfig(f"{row.source}: {error}") from error
        return done

    def _other_kind(self, row: Row) -> Rendered:
        render = self._plans.render
        if row.kind == "text":
            text = row.text + self.special_tokens.get("eos_token", "")
            return Rendered(text, [(0, len(text))])
        if row.kind == "prompt":
            return Rendered(render(row.messages, row.tools, True)[0], [])
        if row.kind == "labelled":
            text, spans = render(row.messages, row.tools, False)
            return Rendered(text, spans[-1:])
        pair = []
        for continuation in (row.chosen, row.rejected):
            text, spans = render((*row.messages, *continuation), row.tools, False)
            flags = [m.train for m in continuation if m.role == "assistant"]
            pair.append((text, _kept(spans[len(spans) - len(flags) :], flags)))
        return Rendered(*pair[0], rejected=Rendered(*pair[1]))

    def _exact(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], prompt: bool) -> tuple[str, Spans]:
        """Jinja's text and spans; with ``prompt`` the generation prompt is added and no turn is marked."""
        return _spans_by(self, self._program, self._marked_program, turns, tools, prompt)

    def _traced(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], prompt: bool) -> tuple[Any, Spans]:
        """The same from programs that keep apart what comes from the row and what from the template."""
        own, marked = self._tracing
        return _spans_by(self, own, marked, turns, tools, prompt)

    @cached_property
    def _tracing(self) -> tuple[Program, Program | None]:
        marked = None if self.marked is None else Program(self.marked, self.special_tokens, tracing=True)
        return Program(self.source, self.special_tokens, tracing=True), marked


def _spans_by(
    template: ChatTemplate,
    own: Program,
    marked: Program | None,
    turns: Sequence[Turn],
    tools: Sequence[dict[str, Any]],
    prompt: bool,
) -> tuple[str, Spans]:
    text, spans = own.run(turns, tools, prompt)
    if prompt:
        return text, []
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if marked is not None:
        other, found = marked.run(turns, tools, False)
        if same(text, other) and len(found) == len(answers):
            return text, found
    if not template.has_markers:
        return text, [_by_prefix(template, own, turns, tools, i, text) for i in answers]
    if len(spans) != len(answers):
        raise InvalidConfig(
            f"the chat template marks {len(spans)} generations in a conversation with {len(answers)} assistant "
            "turns: put {% generation %} ... {% endgeneration %} around the whole output of every assistant turn"
        )
    return text, spans


def _by_prefix(
    template: ChatTemplate, own: Program, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], turn: int, full: str
) -> tuple[int, int]:
    before = own.run(turns[:turn], tools, True)[0]
    upto = own.run(turns[: turn + 1], tools, False)[0]
    if not (begins(upto, before) and begins(full, upto)):
        raise InvalidConfig(
            f"the chat template has no generation markers and rewrites earlier text when turn {turn + 1} is added, "
            "so what the assistant says cannot be told apart: put {% generation %} ... {% endgeneration %} around "
            "the assistant's output in the template of the base model"
        )
    start, answer = len(plain(before)), plain(upto)
    ends = [at + len(stop) for stop in template.stop_tokens if (at := answer.rfind(stop, start)) >= 0]
    return start, max(ends, default=len(answer))


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """Messages in the form chat templates know: OpenAI's, with the arguments of calls parsed to objects.

    Arguments that are not JSON stay a text, as the customer wrote them.
    """
    turns: list[Turn] = []
    for message in messages:
        turn: Turn = {"role": message.role, "content": message.content}
        if message.name is not None:
            turn["name"] = message.name
        if message.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _parsed(call.arguments)},
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        turns.append(turn)
    return turns


def _parsed(arguments: str) -> Any:
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


def _kept(spans: Spans, flags: Sequence[bool]) -> Spans:
    return [span for span, train in zip(spans, flags, strict=True) if train]
