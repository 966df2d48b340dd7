"""The items of a suite: JSONL, one object per line, read the same way by the control plane and by the payload.

``multiple_choice``: ``{"id", "messages": [{"role", "content"}], "choices": [text, ...], "answer": index, "tags"?}``;
``exact_match``: ``{"id", "messages", "reference": text, "tags"?}``.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from ftplatform.core.dataset_config import problems
from ftplatform.core.digests import canonical_json
from ftplatform.core.errors import DataRefused
from ftplatform.core.frozen import Frozen

Kind = Literal["multiple_choice", "exact_match"]


class Turn(Frozen):
    role: Literal["system", "user", "assistant"]
    content: str


class Item(Frozen):
    id: str = Field(min_length=1)
    messages: tuple[Turn, ...] = Field(min_length=1)
    choices: tuple[str, ...] | None = Field(None, min_length=2)
    answer: int | None = Field(None, ge=0)
    """Index of the right choice."""
    reference: str | None = None
    """The only answer that counts, compared after stripping white space at both ends."""
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return "multiple_choice" if self.choices is not None else "exact_match"

    @model_validator(mode="after")
    def _has_one_kind_of_answer(self) -> Item:
        if self.choices is not None:
            if self.answer is None or self.answer >= len(self.choices) or self.reference is not None:
                raise ValueError("choices need an answer that is an index into them, and no reference")
            if not all(self.choices):
                raise ValueError("a choice is empty: it would have no tokens to score")
        elif self.reference is None or self.answer is not None:
            raise ValueError("an item has either choices and an answer, or a reference")
        return self


def parse_items(data: bytes, kind: Kind, where: str) -> list[Item]:
    """Read items in file order.

    Raises:
        DataRefused: naming ``where``, the line and what is wrong: not JSON, a wrong field, another kind, an id seen
        before, none.
    """
    items: list[Item] = []
    seen: set[str] = set()
    for number, line in enumerate(data.decode().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = Item.model_validate(json.loads(line))
        except ValidationError as error:
            raise DataRefused(f"{where}, line {number}, cannot be used:\n{problems(error)}") from error
        except json.JSONDecodeError as error:
            raise DataRefused(f"{where}, line {number}, is not JSON: {error}") from error
        if item.kind != kind:
            raise DataRefused(f"{where}, line {number}: the item is {item.kind}, the suite is {kind}")
        if item.id in seen:
            raise DataRefused(
                f"{where}, line {number}: the id {item.id!r} was used before; ids are unique within a suite"
            )
        seen.add(item.id)
        items.append(item)
    if not items:
        raise DataRefused(f"{where} holds no items")
    return items


def dump_items(items: list[Item]) -> bytes:
    """Canonical JSONL: what ``parse_items`` reads back; unset fields are left out."""
    return b"".join(canonical_json(item.model_dump(mode="json", exclude_none=True)) + b"\n" for item in items)
