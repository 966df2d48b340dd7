"""Phone numbers: presidio's recognizer, and the same findings from less text.

Google's phone-number matcher, which presidio runs once for each of eight regions, takes a millisecond for a chat row.
It only ever looks at stretches of the characters that a number may consist of, so it is shown those alone, and a
stretch seen before is not judged again.
"""

from __future__ import annotations

import re
from functools import lru_cache

# phonenumbers' VALID_PUNCTUATION: what may stand between two blocks of digits, up to four of them.
_BETWEEN = (
    "[-x\u2010-\u2015\u2212\u30fc\uff0d-\uff0f \u00a0\u00ad\u200b\u2060\u3000"
    "()\uff08\uff09\uff3b\uff3d.\\[\\]/~\u2053\u223c\uff5e]"
)
NUMBER = rf"[0-9](?:{_BETWEEN}{{0,4}}[0-9]){{6}}"
"""Seven digits at least: the library takes four-digit German pager numbers for valid, and with them years like 1640."""

# Every character phonenumbers' candidate pattern can take: digits, plus signs, brackets, punctuation, and the words
# that announce an extension. A candidate never reaches across any other character.
_STRETCH = re.compile(
    rf"(?:{_BETWEEN}|[0-9+\uff0b\t,;:=#\uff03\uff0e]|[\uff45\uff58\uff54\uff4e\uff49]|[aeinostx\u00f3\u0301\u0434\u043e\u0431])+",
    re.IGNORECASE,
)
_FIRST = re.compile("[0-9+\uff0b(\uff08\\[\uff3b]")
_LAST = re.compile(".*[0-9][#\uff03]?", re.DOTALL)
"""A candidate begins with one of the first and ends with the second."""
_NUMBER = re.compile(NUMBER)
_DATE = re.compile(r"(?:19|20)[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")
"""The commonest eight digits in a chat. All 74,400 were asked about once: none is a number in any of the regions."""
_CLOCK = 3
"""Characters after a candidate that the library reads: ``:30`` makes it a time stamp."""
REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")
"""Presidio's own; numbers with a country code are found whatever the country."""


def long_enough(text: str) -> bool:
    return _NUMBER.search(text) is not None


def find_phones(text: str) -> list[tuple[int, int]]:
    """Start and end of every phone number of seven digits or more in a folded text: presidio's own findings."""
    found = []
    for stretch in _STRETCH.finditer(text):
        if long_enough(stretch[0]) and not _DATE.fullmatch(stretch[0].strip("\t ,;:=aeinostxAEINOSTX")):
            first, last = _FIRST.search(stretch[0]), _LAST.match(stretch[0])
            assert first  # it has seven digits
            assert last
            start, end = stretch.start() + first.start(), stretch.start() + last.end()
            before = text[start - 1] if start else ""
            after = text[end : end + _CLOCK] if text.startswith(":", end) else text[end : end + 1]
            offset = start - len(before)
            found += [(offset + a, offset + b) for a, b in _judge(before, text[start:end], after)]
    return found


@lru_cache(maxsize=1 << 16)
def _judge(before: str, stretch: str, after: str) -> tuple[tuple[int, int], ...]:
    """Places in ``before + stretch + after`` of the numbers in ``stretch``."""
    import phonenumbers

    text, start = before + stretch + after, len(before)
    last = start + len(stretch)
    found: set[tuple[int, int]] = set()
    for region in REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            if match.start < last and long_enough(match.raw_string):
                found.add((match.start, match.end))
        # With a country code the region asked for plays no part: the others would say the same.
        if stretch.startswith("+") and found == {(start, last)}:
            break
    return tuple(sorted(found))
