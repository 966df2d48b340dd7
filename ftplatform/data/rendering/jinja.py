"""A compiled Jinja chat template, as transformers compiles one, and its tracing twin.

The twin works on `Text` (a string that knows which of its parts come from the row) instead of plain strings, so that
``data/rendering/compiled.py`` can learn from one rendering how every row of the same form is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.rendering.traced import NotTraceable, Text, holds_text, join

Spans = list[tuple[int, int]]
"""Half-open character ranges, one per assistant turn, in order."""
Turn = dict[str, Any]
"""A message as a chat template sees it."""

_PASS_TEXT_ON = frozenset(
    [
        "trim",
        "string",
        "default",
        "d",
        "list",
        "length",
        "count",
        "first",
        "last",
        "reverse",
        "items",
        "map",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
    ]
)
"""Filters that work through a `Text`'s own methods, or hand it on as it is."""
_CONTAINS = "ftplatform_contains"


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
        start = sum(map(len, map(str.__str__, self.pieces)))
        self.spans.append((start, start + str.__len__(text)))
        return text


class _Tracing(ImmutableSandboxedEnvironment):
    """Refuses to hand a row's text to anything that would use it without leaving a trace."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and not isinstance(owner, Text):
            # Jinja adds the loop's and the block's variables for functions that ask for them; a string's do not.
            given = [value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")]
            if holds_text((args, given)):
                raise NotTraceable
        return super().call(__context, __obj, *args, **kwargs)


class _AskedIn(NodeTransformer):
    """``a in b`` becomes a call: of a plain ``b``, Python would ask the string, and a text ``a`` leaves no trace."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not any(operand.op in ("in", "notin") for operand in node.ops):
            return node
        name = nodes.Name(_CONTAINS, "load", lineno=node.lineno)
        if len(node.ops) > 1:  # ``a in b in c`` asks more than one question
            return nodes.Call(name, [], [], None, None, lineno=node.lineno)
        (operand,) = node.ops
        call = nodes.Call(name, [operand.expr, node.expr], [], None, None, lineno=node.lineno)
        return nodes.Not(call, lineno=node.lineno) if operand.op == "notin" else call


def _contains(*pair: Any) -> bool:
    if not pair:
        raise NotTraceable
    container, value = pair
    if isinstance(value, Text) and isinstance(container, str) and not isinstance(container, Text):
        raise NotTraceable
    return value in container


class Program:
    """``run(turns, tools, add_generation_prompt) -> (text, spans of the marked blocks)``.

    Raises:
        InvalidConfig: the source is not a template.
    """

    def __init__(self, source: str, special_tokens: dict[str, str], tracing: bool = False) -> None:
        self._special = special_tokens
        self._join = join if tracing else "".join
        kind = _Tracing if tracing else ImmutableSandboxedEnvironment
        environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        self._block: _GenerationBlock = environment.generation_block  # type: ignore[attr-defined]
        if tracing:
            environment.concat = join  # type: ignore[method-assign]
            environment.filters = {
                name: found if name in _PASS_TEXT_ON else _guarded(found) for name, found in environment.filters.items()
            }
            environment.tests["in"] = lambda value, container: _contains(container, value)
            environment.globals[_CONTAINS] = _contains
        try:
            code = _AskedIn().visit(environment.parse(source)) if tracing else source
            self._template = environment.from_string(code)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidConfig(f"the chat template cannot be read: {error.message} in line {error.lineno}") from error
        if tracing:
            # What the compiled code joins strings by; both would give a plain string.
            self._template.root_render_func.__globals__.update(concat=join, str_join=join)

    def run(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], add_generation_prompt: bool
    ) -> tuple[str, Spans]:
        """Raises InvalidConfig when the template refuses the turns or needs something that is not offered."""
        block = self._block
        block.pieces, block.spans = pieces, _ = [], []
        try:
            for piece in self._template.generate(
                messages=list(turns),
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special,
            ):
                pieces.append(piece)
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(str(turn["role"]) for turn in turns)
            raise InvalidConfig(f"the chat template refuses a conversation with the roles {roles}: {error}") from error
        return self._join(pieces), _joined(block.spans)


def _guarded(found: Any) -> Any:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if holds_text((args, kwargs)):
            raise NotTraceable
        return found(*args, **kwargs)

    for name in ("jinja_pass_arg", "__name__"):
        if hasattr(found, name):
            setattr(guarded, name, getattr(found, name))
    return guarded


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """Spans that touch are one: some templates mark the stop token of the last turn by itself."""
    joined: Spans = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
