"""Text as the recognizers read it: other scripts' digits as ASCII, invisible characters gone, places kept.

``４１１１ 1111…``, ``4111‑1111‑…`` with no-break hyphens and ``4111<zero width space>1111`` are the same card number. Cleaning the
text itself is ``unicode_text``'s work and the customer's choice; finding personal data must not depend on it.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache

# Formatting characters without a width: soft hyphen, zero-width (non-)joiner and space, direction marks, byte order mark.
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


@dataclass(frozen=True, slots=True)
class Folded:
    """``text``, and for each of its characters the place in the original; None where both run in step."""

    text: str
    places: tuple[int, ...] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where the (not empty) stretch ``start`` to ``end`` of ``text`` is in the original."""
        return (start, end) if self.places is None else (self.places[start], self.places[end - 1] + 1)


@cache
def _table() -> dict[int, str]:
    table: dict[int, str] = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Nd":
            table[code] = str(unicodedata.decimal(character))
        elif category == "Zs":
            table[code] = " "
        elif category == "Cs":
            table[code] = "?"  # half of a pair: it has no UTF-8 form, and RE2 reads UTF-8
    table |= dict.fromkeys((*range(8208, 8214), 8722, 65123), "-")
    table |= {0x85: "\n", 0x2028: "\n", 0x2029: "\n"}
    # The four letters outside ASCII that equal an ASCII letter when case is ignored.
    return table | {0x130: "I", 0x131: "i", 0x17F: "s", 0x212A: "K"}


def fold(text: str) -> Folded:
    """``text`` folded; ASCII text is returned as it is, at no cost."""
    if text.isascii():
        return Folded(text)
    if not _INVISIBLE.search(text):
        return Folded(text.translate(_table()))
    gone = {i for found in _INVISIBLE.finditer(text) for i in range(*found.span())}
    places = tuple(i for i in range(len(text)) if i not in gone)
    return Folded(_INVISIBLE.sub("", text).translate(_table()), places)
