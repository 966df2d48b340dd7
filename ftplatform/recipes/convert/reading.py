"""Reading another program's settings: every key is taken, agreed with, refused, or listed as left behind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftplatform.core.errors import InvalidConfig

_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Left:
    """A setting that the recipe does not carry."""

    key: str
    value: Any
    why: str
    nearest: str | None
    """The field or command that comes closest."""

    def line(self) -> str:
        value = " ".join(str(self.value).split())
        value = value if len(value) <= 60 else value[:59] + "…"
        return f"{' '.join(str(self.key).split())}: {value} - {self.why}" + (
            f" (nearest: {self.nearest})" if self.nearest else ""
        )


@dataclass(frozen=True, slots=True)
class Converted:
    recipe: dict[str, Any]
    """Content of a recipe file."""
    left: tuple[Left, ...]
    without_meaning: tuple[str, ...]
    """Keys of the other program's own workings, which no recipe could say."""
    notes: tuple[str, ...]
    """Sentences for a person: what to do next, what was assumed."""
    problems: tuple[str, ...] = ()
    """Why `ft recipe add` would refuse the recipe as it is."""


class Reading:
    """The settings of one file. A key whose value is null or empty says nothing in these programs, and is no setting.

    A group named in ``groups`` is read key by key, as ``group.key``.
    """

    def __init__(self, value: Mapping[str, Any], groups: tuple[str, ...] = ()) -> None:
        flat: dict[str, Any] = {}
        for key, one in value.items():
            inner = one if key in groups and isinstance(one, Mapping) else None
            flat |= {key: one} if inner is None else {f"{key}.{name}": given for name, given in inner.items()}
        self._value = {key: one for key, one in flat.items() if one not in (None, "", [], {})}
        self._seen: set[str] = set()
        self._recipe: dict[str, Any] = {}
        self._left: list[Left] = []
        self._without_meaning: list[str] = []
        self._notes: list[str] = []
        self._refused: dict[str, str] = {}

    def take(self, key: str, default: Any = None) -> Any:
        """The key's value, from now on accounted for."""
        self._seen.add(key)
        return self._value.get(key, default)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number; YAML reads ``2e-4`` as text. Anything else is refused at the end, with all others."""
        value = found = self.take(key)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if found is not None and (
            not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
        ):
            self.refuse(key, "accepted is a number")
            value = None
        return default if value is None else value

    def whole(self, key: str, default: int | None = None) -> Any:
        """A whole number, also written as ``8.0``."""
        value = self.number(key, default)
        if value is None or value == int(value):
            return value if value is None else int(value)
        self.refuse(key, "accepted is a whole number")
        return default

    def flag(self, key: str, default: bool = False) -> bool:
        said = str(self.take(key, default)).lower()
        if said not in (*_ON, *_OFF):
            self.refuse(key, "accepted is true or false")
        return said in _ON

    def put(self, field: str, value: Any) -> None:
        """Set a dotted field of the recipe."""
        *groups, last = field.split(".")
        place = self._recipe
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value

    def said(self, field: str, default: Any = None) -> Any:
        """What was put into a dotted field."""
        place: Any = self._recipe
        for group in field.split("."):
            place = place.get(group) if isinstance(place, dict) else None
        return default if place is None else place

    def carry(self, fields: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> None:
        """Take numbers that mean the same here; ``defaults`` are the other program's, where ours differ."""
        for key, field in fields.items():
            value = self.number(key, (defaults or {}).get(key))
            if value is not None:
                self.put(field, value)

    def carry_flags(self, fields: Mapping[str, str]) -> None:
        for key, field in fields.items():
            if self.has(key):
                self.put(field, self.flag(key))

    def choose(self, key: str, field: str, values: Mapping[str, Any], default: str) -> None:
        """Take a key whose values have other names here; one without a name here is left behind, and ours holds."""
        value = str(self.take(key, default))
        if value in values:
            self.put(field, values[value])
        else:
            self.leave(key, f"not one of {', '.join(sorted(values))}", field)

    def one_of(self, key: str, *values: str, default: str) -> str:
        """A key of a few values, in lower case; any other is refused."""
        said = str(self.take(key, default)).lower()
        if said not in values:
            self.refuse(key, f"accepted are {', '.join(values)}")
        return said

    def agree(self, key: str, *values: Any, why: str, nearest: str | None = None) -> None:
        """A key whose ``values`` say what happens here anyway; any other is left behind."""
        if self.take(key, values[0]) not in values:
            self.leave(key, why, nearest)

    def leave(self, key: str, why: str, nearest: str | None = None) -> None:
        self._seen.add(key)
        if key in self._value and all(one.key != key for one in self._left):
            self._left.append(Left(key, self._value[key], why, nearest))

    def leave_all(self, groups: Mapping[tuple[str, str | None], tuple[str, ...]]) -> None:
        """``(why, nearest)`` -> keys."""
        for (why, nearest), keys in groups.items():
            for key in keys:
                self.leave(key, why, nearest)

    def meaningless(self, *keys: str) -> None:
        """Keys that say nothing about the training, or nothing that could be otherwise here."""
        self._seen.update(keys)
        self._without_meaning += [key for key in keys if key in self._value]

    def refuse(self, key: str, why: str) -> None:
        """A value that cannot be read, or a training that no recipe could say: none is made, and all such keys are told."""
        self._seen.add(key)
        self._refused.setdefault(key, f"  {key}: {str(self._value.get(key))[:60]} - {why}")

    def refuse_all(self, groups: Mapping[str, tuple[str, ...]]) -> None:
        """``why`` -> switches that are refused when they are on."""
        for why, keys in groups.items():
            for key in keys:
                if self.take(key) not in (None, False, "false"):
                    self.refuse(key, why)

    def note(self, sentence: str) -> None:
        self._notes.append(sentence)

    def has(self, key: str) -> bool:
        return key in self._value

    def starting(self, prefix: str) -> list[str]:
        return [key for key in self._value if str(key).startswith(prefix)]

    def finish(self) -> Converted:
        """What was read.

        Raises:
            InvalidConfig: with everything that was refused.
        """
        if self._refused:
            raise InvalidConfig("this file cannot become a recipe:\n" + "\n".join(self._refused.values()))
        for key in self._value:
            if key not in self._seen:
                self.leave(key, "this platform has no such setting")
        return Converted(self._recipe, tuple(self._left), tuple(self._without_meaning), tuple(self._notes))


def slug(text: str) -> str:
    """The nearest valid name: lower case, ``-`` for everything else, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "imported"
