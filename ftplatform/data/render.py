"""Chat templates: messages -> the text a model reads, and which characters of it are the assistant's.

The environment is the one transformers gives chat templates (sandboxed, trimmed blocks, loop controls, ``tojson``
without HTML escapes, ``raise_exception``), so that training renders what every serving engine renders.
``strftime_now`` is left out on purpose: a template that falls back to a fixed date without it gives the same tokens
every day, and one that cannot is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message

Spans = list[tuple[int, int]]
"""Half-open character ranges, one per assistant turn, in order."""

_MARKER = re.compile(r"\{%-?\s*generation\b")


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}``: notes where the block's text lies in what was rendered so far."""

    tags = {"generation"}

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.pieces: list[str] = []
        self.spans: Spans = []
        environment.extend(generation_block=self)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: Any) -> str:
        text = str(caller())
        start = sum(map(len, self.pieces))
        self.spans.append((start, start + len(text)))
        return text


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _joined(spans: Spans) -> Spans:
    """Spans that touch are one: Phi's template marks the stop token of the last turn by itself."""
    joined: Spans = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


class ChatTemplate:
    """A compiled chat template. Not safe for use by several threads at a time.

    ``special_tokens`` are the variables ``bos_token``, ``eos_token`` and so on; ``stop_tokens`` the texts that end an
    assistant's turn (``eos_token`` when not given).

    Raises:
        InvalidConfig: the source is not a template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], stop_tokens: Sequence[str] = ()) -> None:
        self.source = source
        self.special_tokens = dict(special_tokens)
        eos = self.special_tokens.get("eos_token")
        self.stop_tokens = tuple(stop_tokens) or ((eos,) if eos else ())
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        self._block: _GenerationBlock = environment.generation_block  # type: ignore[attr-defined]
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidConfig(f"the chat template cannot be read: {error.message} in line {error.lineno}") from error
        self.has_markers = bool(_MARKER.search(source))

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the rendering; training and serving must have the same."""
        return digest_json({"source": self.source, "special_tokens": self.special_tokens})

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation.

        Raises:
            InvalidConfig: the template refuses the messages, or needs something that is not offered.
        """
        block = self._block
        block.pieces, block.spans = [], []
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            for piece in self._template.generate(
                messages=turns,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            ):
                block.pieces.append(piece)
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(m.role for m in messages)
            raise InvalidConfig(f"the chat template refuses a conversation with the roles {roles}: {error}") from error
        return "".join(block.pieces)

    def render_with_spans(self, messages: Sequence[Message]) -> tuple[str, Spans]:
        """The text and, for each assistant turn, the characters the model has to produce, the stop token among them.

        Taken from the template's ``{% generation %}`` markers; without markers, from the difference between the text
        up to the turn with a generation prompt and the text including it, cut after the stop token.

        Raises:
            InvalidConfig: neither way is possible with this template.
        """
        answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
        text = self.render(messages)
        spans = _joined(self._block.spans)
        if not self.has_markers:
            return text, [self._by_prefix(messages, i, text) for i in answers]
        if len(spans) != len(answers):
            raise InvalidConfig(
                f"the chat template marks {len(spans)} generations in a conversation with {len(answers)} assistant "
                "turns: "
                "put {% generation %} ... {% endgeneration %} around the whole output of every assistant turn"
            )
        return text, spans

    def _by_prefix(self, messages: Sequence[Message], turn: int, full: str) -> tuple[int, int]:
        before = self.render(messages[:turn], add_generation_prompt=True)
        upto = self.render(messages[: turn + 1])
        if not (upto.startswith(before) and full.startswith(upto)):
            raise InvalidConfig(
                f"the chat template has no generation markers and rewrites earlier text when turn {turn + 1} is added, "
                "so what the assistant says cannot be told apart: put {% generation %} ... {% endgeneration %} around "
                "the assistant's output in the template of the base model"
            )
        ends = [at + len(stop) for stop in self.stop_tokens if (at := upto.rfind(stop, len(before))) >= 0]
        return len(before), max(ends, default=len(upto))
