"""A string that remembers which of its parts come from a row, and what a template asked about them.

This is concolic execution (Godefroid, Klarlund, Sen: DART, 2005) of a chat template: it runs on real texts, and every
question whose answer could differ for another row (``'</think>' in content``) becomes a condition. Another row of the
same form for which all conditions have the same answers takes the same path, so its rendering is the same sequence of
parts with its own texts in them. What cannot be followed raises `NotTraceable`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

Slot = tuple[int, tuple[tuple[str, str | None], ...]]
"""A text of the row by its number, and how it was stripped: (method, characters) in order."""
Condition = Callable[[Sequence[str]], bool]
"""Whether another row's texts give the answer that was given here."""
Conditions = dict[Hashable, Condition]
"""By what was asked, so that a question asked twice is asked once of every other row."""


class NotTraceable(Exception):
    """The template does something with a row's text whose result for another text cannot be foreseen."""


class Text(str):
    """``parts``: literals and slots whose texts, joined, are this string; ``conditions`` is shared by one rendering."""

    parts: tuple[str | Slot, ...]
    conditions: Conditions

    @classmethod
    def slot(cls, number: int, value: str, conditions: Conditions) -> Text:
        return _text(value, ((number, ()),), conditions)

    def __str__(self) -> str:
        return self

    def __format__(self, spec: str) -> str:
        raise NotTraceable

    def __add__(self, other: str) -> str:
        return join((self, other))

    def __radd__(self, other: str) -> str:
        return join((other, self))

    def __bool__(self) -> bool:
        if any(isinstance(part, str) for part in self.parts):
            return True
        return self._ask("bool", "", bool)

    def __contains__(self, other: object) -> bool:
        found = _literal(other)
        return self._ask("in", found, lambda text: found in text)

    def startswith(self, other: Any, *place: Any) -> bool:
        found = _literal(other, place)
        return self._ask("startswith", found, lambda text: text.startswith(found))

    def endswith(self, other: Any, *place: Any) -> bool:
        found = _literal(other, place)
        return self._ask("endswith", found, lambda text: text.endswith(found))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Text):
            return self._ask_both(other)
        if not isinstance(other, str):
            return False
        return self._ask("==", other, lambda text: text == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def strip(self, characters: str | None = None) -> str:
        return self._stripped("strip", characters)

    def lstrip(self, characters: str | None = None) -> str:
        return self._stripped("lstrip", characters)

    def rstrip(self, characters: str | None = None) -> str:
        return self._stripped("rstrip", characters)

    def __getitem__(self, key: Any) -> str:
        if isinstance(key, str):  # how Jinja looks for an attribute that a string does not have
            raise TypeError("string indices must be integers")
        raise NotTraceable

    def _slot(self) -> Slot:
        if len(self.parts) != 1 or isinstance(self.parts[0], str):
            raise NotTraceable
        return self.parts[0]

    def _stripped(self, method: str, characters: str | None) -> str:
        number, done = self._slot()
        if isinstance(characters, Text):
            raise NotTraceable
        value = getattr(str, method)(plain(self), characters)
        return _text(value, ((number, (*done, (method, characters))),), self.conditions)

    def _ask(self, kind: str, other: str, question: Callable[[str], bool]) -> bool:
        slot = self._slot()
        answer = question(plain(self))
        self.conditions[kind, slot, other] = lambda texts: question(value_of(slot, texts)) is answer
        return answer

    def _ask_both(self, other: Text) -> bool:
        mine, theirs = self._slot(), other._slot()
        answer = plain(self) == plain(other)
        if mine != theirs:
            self.conditions["==", mine, theirs] = lambda texts: (
                (value_of(mine, texts) == value_of(theirs, texts)) is answer
            )
        return answer


def _not_traceable(self: Text, *args: Any, **kwargs: Any) -> Any:
    raise NotTraceable


_KEPT = frozenset(
    [
        "__class__",
        "__new__",
        "__init__",
        "__init_subclass__",
        "__subclasshook__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__dir__",
        "__doc__",
        "__reduce__",
        "__reduce_ex__",
        "__getnewargs__",
        "__getstate__",
        "__sizeof__",
        "__repr__",
    ]
)
for _name in set(dir(str)) - _KEPT - set(vars(Text)) | {"__hash__"}:
    setattr(Text, _name, _not_traceable)


def plain(text: str) -> str:
    """The string alone, of the built-in type."""
    return str.__str__(text)


def value_of(slot: Slot, texts: Sequence[str]) -> str:
    value = texts[slot[0]]
    for method, characters in slot[1]:
        value = getattr(value, method)(characters)
    return value


def join(parts: Iterable[Any]) -> str:
    """``"".join`` that keeps the parts apart; neighbouring literals become one."""
    strings = [part if isinstance(part, str) else str(part) for part in parts]
    conditions = next((part.conditions for part in strings if isinstance(part, Text)), None)
    if conditions is None:
        return "".join(strings)
    flat: list[str | Slot] = []
    for string in strings:
        for part in string.parts if isinstance(string, Text) else (string,):
            if isinstance(part, str) and flat and isinstance(flat[-1], str):
                flat[-1] += part
            elif part:
                flat.append(part)
    return _text("".join(map(plain, strings)), tuple(flat), conditions)


def same(one: str, other: str) -> bool:
    """Whether two renderings are equal; of traced ones, whether they are equal for every row of the path."""
    if plain(one) != plain(other):
        if isinstance(one, Text):
            raise NotTraceable
        return False
    if _parts(one) != _parts(other):
        raise NotTraceable
    return True


def begins(text: str, start: str) -> bool:
    """Whether a rendering begins with another; of traced ones, whether it does for every row of the path."""
    if not plain(text).startswith(plain(start)):
        if isinstance(text, Text):
            raise NotTraceable
        return False
    if isinstance(text, Text):
        *whole, last = _parts(start)
        ours = _parts(text)
        at = ours[len(whole)]
        if ours[: len(whole)] != tuple(whole) or not (
            at == last or (isinstance(at, str) and isinstance(last, str) and at.startswith(last))
        ):
            raise NotTraceable
    return True


def holds_text(value: Any) -> bool:
    """Whether a value is, or holds somewhere, text of a row."""
    if isinstance(value, Text):
        return True
    if isinstance(value, Mapping):
        return any(map(holds_text, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_text, value))


def _parts(text: str) -> tuple[str | Slot, ...]:
    return text.parts if isinstance(text, Text) else (text,)


def _text(value: str, parts: tuple[str | Slot, ...], conditions: Conditions) -> Text:
    made = str.__new__(Text, value)
    made.parts, made.conditions = parts, conditions
    return made


def _literal(value: object, place: tuple[Any, ...] = ()) -> str:
    if not isinstance(value, str) or isinstance(value, Text) or place:
        raise NotTraceable
    return value
