"""The canonical row: what one example holds, whatever format it came in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ftplatform.core.digests import canonical_json, digest_json

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")
SPLITS = ("train", "validation", "test")

Kind = Literal["chat", "preference", "labelled", "prompt", "text"]
KINDS: tuple[str, ...] = ("chat", "preference", "labelled", "prompt", "text")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call an assistant turn makes; ``arguments`` is JSON text, as in OpenAI's format."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``train`` says whether the loss covers it; only assistant turns can be trained on."""

    role: str
    content: str
    train: bool = True
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """On a ``tool`` turn: the call it answers."""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.train:
            value["weight"] = 0
        if self.name is not None:
            value["name"] = self.name
        if self.tool_calls:
            value["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        if self.tool_call_id is not None:
            value["tool_call_id"] = self.tool_call_id
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Message:
        calls = value.get("tool_calls", ())
        return cls(
            value["role"],
            value["content"],
            value.get("weight", 1) != 0,
            value.get("name"),
            tuple(ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls),
            value.get("tool_call_id"),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One example; ``source`` is ``file:line``, ``tags`` are free key/value pairs used for slices and mixing.

    ============  =========================================================================================
    kind          holds
    ============  =========================================================================================
    chat          ``messages``: a whole conversation, an assistant turn last
    preference    ``messages``: the prompt; ``chosen`` and ``rejected``: two continuations of it
    labelled      ``messages``: a whole conversation; ``label``: whether its last answer is a good one (KTO)
    prompt        ``messages``: the prompt alone; ``extra``: what a grader may read as ``item.*``
    text          ``text``: a document, learned as it stands (continued pre-training)
    ============  =========================================================================================
    """

    messages: tuple[Message, ...]
    source: str
    tags: dict[str, str] = field(default_factory=dict)
    kind: str = "chat"
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    text: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions the assistant may call, in OpenAI's form."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 of the content alone: the same example has the same hash wherever it came from."""
        value = self.to_json()
        return digest_json({key: value[key] for key in value if key not in ("source", "tags")})

    def contents(self) -> Iterator[str]:
        """Every text a person wrote: message contents, arguments of calls, the document. The order is fixed."""
        for message in (*self.messages, *self.chosen, *self.rejected):
            yield message.content
            for call in message.tool_calls:
                yield call.arguments
        if self.text:
            yield self.text

    def map_contents(self, change: Callable[[str], str]) -> Row:
        """The row with ``change`` applied to every text of ``contents``; the same object when none changed."""
        before = list(self.contents())
        after = [change(text) for text in before]
        # Most rows stay as they are: telling so first costs a tenth of building them anew.
        if all(new is old for new, old in zip(after, before, strict=True)):
            return self
        texts = iter(after)

        def turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
            return tuple(
                replace(
                    m,
                    content=next(texts),
                    tool_calls=tuple(replace(call, arguments=next(texts)) for call in m.tool_calls),
                )
                for m in messages
            )

        return replace(
            self,
            messages=turns(self.messages),
            chosen=turns(self.chosen),
            rejected=turns(self.rejected),
            text=next(texts) if self.text else "",
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"messages": [m.to_json() for m in self.messages]}
        if self.kind != "chat":
            value["kind"] = self.kind
        for name in ("chosen", "rejected"):
            if turns := getattr(self, name):
                value[name] = [m.to_json() for m in turns]
        if self.label is not None:
            value["label"] = self.label
        if self.text:
            value["text"] = self.text
        if self.tools:
            value["tools"] = list(self.tools)
        if self.extra:
            value["extra"] = self.extra
        value["source"] = self.source
        value["tags"] = self.tags
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        return cls(
            messages=tuple(map(Message.from_json, value["messages"])),
            source=value["source"],
            tags=value.get("tags", {}),
            kind=value.get("kind", "chat"),
            chosen=tuple(map(Message.from_json, value.get("chosen", ()))),
            rejected=tuple(map(Message.from_json, value.get("rejected", ()))),
            label=value.get("label"),
            text=value.get("text", ""),
            tools=tuple(value.get("tools", ())),
            extra=value.get("extra", {}),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with one place of an upload; ``line`` counts from 1, 0 means the whole file."""

    code: str
    severity: Literal["error", "warning"]
    file: str
    line: int
    path: str
    found: str
    accepted: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def rows_to_jsonl(rows: Iterable[Row]) -> bytes:
    """One canonical JSON object per line."""
    return b"".join(canonical_json(row.to_json()) + b"\n" for row in rows)


def rows_from_jsonl(data: bytes) -> list[Row]:
    return [Row.from_json(json.loads(line)) for line in data.splitlines() if line]
