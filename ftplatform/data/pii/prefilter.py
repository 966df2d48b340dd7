"""One RE2 scan that says which recognizers a text must be shown to.

Each condition is *derived* from the recognizer's own patterns: parse the pattern, drop or weaken what RE2 cannot say
(look-around, word boundaries, back references), keep the rest. Every step accepts more than the original, so a text
that a recognizer finds something in always meets its condition; nothing has to be kept in step by hand. RE2 then
tests all of them in one pass over the text, in time linear in its length.
"""

from __future__ import annotations

import re._constants as op  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Callable, Sequence
from typing import Any

_ANY = "(?s:.)"
_CATEGORIES = {
    op.CATEGORY_DIGIT: "0-9",
    # Letters, digits and white space beyond ASCII: all of it, which is more than the recognizers' Unicode classes.
    op.CATEGORY_WORD: r"0-9A-Za-z_\x{80}-\x{10FFFF}",
    op.CATEGORY_SPACE: r"\t\n\v\f\r \x{80}-\x{10FFFF}",
}
_MOST_REPEATS = 20
"""Above it ``{m,n}`` becomes ``{m,}``: more is accepted, and the automaton stays small."""


def relax(pattern: str, ignore_case: bool) -> str:
    """An RE2 pattern that matches in every text in which ``pattern`` matches.

    The text is folded (``pii_fold``), so ``\\d`` is an ASCII digit and no letter outside ASCII equals one inside when
    case is ignored.

    Raises:
        NotImplementedError: ``pattern`` uses a construct that has no rule here.
    """
    weaker = _sequence(list(parser.parse(pattern)), leading=True)
    return f"(?i:{weaker})" if ignore_case else f"(?:{weaker})"


def _sequence(items: Sequence[Any], leading: bool = False) -> str:
    parts: list[str] = []
    for kind, value in items:
        first = leading and not any(parts)
        # Look-behind in front of everything else is simply text that comes first.
        if kind is op.ASSERT and value[0] < 0 and first:
            parts.append(_sequence(value[1]))
        else:
            parts.append(_item(kind, value, first))
    return "".join(parts)


def _item(kind: Any, value: Any, first: bool) -> str:
    if kind in (op.AT, op.ASSERT, op.ASSERT_NOT):
        return ""
    if kind is op.LITERAL:
        return _character(value)
    if kind is op.NOT_LITERAL:
        return f"[^{_character(value)}]"
    if kind is op.ANY:
        return _ANY
    if kind is op.IN:
        return _class(value)
    if kind is op.BRANCH:
        return "(?:" + "|".join(_sequence(branch, first) for branch in value[1]) + ")"
    if kind is op.SUBPATTERN:
        _, on, off, inner = value
        flags = ("i" if on & parser.SRE_FLAG_IGNORECASE else "") + ("-i" if off & parser.SRE_FLAG_IGNORECASE else "")
        return f"(?{flags}:{_sequence(inner, first)})"
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        least, most, inner = value
        return f"(?:{_sequence(inner)}){_repeat(int(least), int(most))}"
    if kind is op.ATOMIC_GROUP:
        return f"(?:{_sequence(value)})"
    if kind is op.GROUPREF:
        return f"{_ANY}*"
    raise NotImplementedError(f"no rule to weaken {kind} in a pattern")


def _repeat(least: int, most: int) -> str:
    return f"{{{least},{most}}}" if most <= _MOST_REPEATS else f"{{{least},}}"


def _class(members: Sequence[Any]) -> str:
    negated = members[0][0] is op.NEGATE
    parts = []
    for kind, value in members[1:] if negated else members:
        if kind is op.LITERAL:
            parts.append(_character(value))
        elif kind is op.RANGE:
            parts.append(f"{_character(value[0])}-{_character(value[1])}")
        elif kind is op.CATEGORY and value in _CATEGORIES and not negated:
            parts.append(_CATEGORIES[value])
        elif kind is op.CATEGORY:
            return _ANY
        else:
            raise NotImplementedError(f"no rule to weaken {kind} in a character class")
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _character(code: int) -> str:
    return f"\\x{{{code:X}}}"


def open_prefilter(conditions: Sequence[Sequence[Sequence[str]]]) -> Callable[[str], list[int]]:
    """Which of the conditions a text meets.

    ``conditions[i]`` is a list of alternatives; an alternative is a list of RE2 patterns which must all be in the
    text, in any order. The function returned gives the indices of the conditions met, in order; it takes a folded
    text.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20  # bytes; a full cache is emptied and filled again
    patterns = list(dict.fromkeys(p for alternatives in conditions for every in alternatives for p in every))
    number = {pattern: i for i, pattern in enumerate(patterns)}
    found = re2.Set.SearchSet(options)
    for pattern in patterns:
        found.Add(pattern)
    found.Compile()
    alone: list[list[int]] = [[] for _ in patterns]
    together: list[tuple[int, frozenset[int]]] = []
    for i, alternatives in enumerate(conditions):
        for every in alternatives:
            if len(every) == 1:
                alone[number[every[0]]].append(i)
            else:
                together.append((i, frozenset(number[p] for p in every)))
    match = found.Match

    def which(text: str) -> list[int]:
        hits = match(text)
        if not hits:
            return []
        met = {i for hit in hits for i in alone[hit]}
        met.update(i for i, every in together if every.issubset(hits))
        return sorted(met)

    return which
