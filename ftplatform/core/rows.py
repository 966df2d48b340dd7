"""The canonical row: one conversation, with what is learned from it and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ftplatform.core.digests import canonical_json, digest_json

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``train`` says whether the loss covers it; only assistant turns can be trained on."""

    role: str
    content: str
    train: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation; ``source`` is ``file:line``, ``tags`` are free key/value pairs used for slices."""

    messages: tuple[Message, ...]
    source: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 of the conversation alone: the same text has the same hash wherever it came from."""
        return digest_json([[m.role, m.content, m.train] for m in self.messages])

    def to_json(self) -> dict[str, Any]:
        return {
            "messages": [
                {"role": m.role, "content": m.content, **({} if m.train else {"weight": 0})} for m in self.messages
            ],
            "source": self.source,
            "tags": self.tags,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        return cls(
            messages=tuple(Message(m["role"], m["content"], m.get("weight", 1) != 0) for m in value["messages"]),
            source=value["source"],
            tags=value.get("tags", {}),
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
