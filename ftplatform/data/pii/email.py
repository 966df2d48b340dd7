"""Where an e-mail address can be: presidio's pattern takes time in the square of a long stretch without spaces, and is
silently given up after a minute; here it never sees more of one than an address can be long."""

from __future__ import annotations

import re
from collections.abc import Iterator

_STRETCH = re.compile(r"[^\x00-\x20\x7f\"(),:;<>\[\\\]]+")
"""All characters that presidio's pattern can take, and more; none of its matches reaches across another."""
_LONGEST = 320
"""RFC 5321: 64 characters, ``@`` and a domain of 255. Nothing longer is looked at as one address."""


def address_windows(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of the stretches to search, in order, apart from each other."""
    for stretch in _STRETCH.finditer(text):
        start, end = stretch.span()
        at = text.find("@", start, end)
        while at >= 0:
            first = max(start, at - _LONGEST)
            last = min(end, at + _LONGEST)
            while (at := text.find("@", at + 1, end)) >= 0 and at - _LONGEST <= last:
                last = min(end, at + _LONGEST)
            yield first, last
