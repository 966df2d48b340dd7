"""The Unicode policy: one form for one text, and nothing in it that a reader cannot see.

Invisible characters are where instructions are smuggled past a reviewer (tag characters, runs of variation selectors, direction
overrides) and where equal texts differ for a tokenizer. What a script cannot be written without stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache

from ftplatform.core.dataset_config import UnicodeConfig
from ftplatform.core.rows import Row

COUNTS = {
    "control": "control characters removed",
    "line_separator": "form feeds and Unicode line separators made a line feed",
    "noncharacter": "code points that are no characters, removed",
    "lone_surrogate": "halves of a surrogate pair made U+FFFD",
    "byte_order_mark": "byte order marks inside a text removed",
    "zero_width": "zero-width spaces, word joiners and invisible operators removed",
    "soft_hyphen": "soft hyphens removed",
    "joiner": "joiners outside the scripts that need them removed",
    "tag_character": "tag characters (invisible copies of ASCII) removed",
    "variation_selector": "variation selectors without a character to vary removed",
    "bidi": "direction overrides, embeddings and isolates removed",
    "direction_mark": "direction marks in a text without right-to-left letters removed",
    "digits_mapped": "digits of other scripts written in ASCII",
    "normalised": "texts brought to the normal form",
    "mixed_digits": "texts that mix digits of two scripts or more",
}
"""Every count of ``clean_text``; characters, except the last two, which count texts."""

# Scripts whose spelling needs joiners: Arabic, Syriac, N'Ko, Mandaic, the Indic family, Tibetan, Myanmar, Khmer, Mongolian,
# Phags-pa, Javanese, Meetei Mayek, Arabic presentation forms, and the Indic blocks of plane 1.
_JOINING = (
    "\u0600-\u06ff\u0700-\u077f\u07c0-\u07ff\u0840-\u0dff\u0f00-\u0fff\u1000-\u109f\u1700-\u18af\u1900-\u1aad\u1b00-\u1c4f\u1cd0-\u1cff"
    "\ua800-\ua82f\ua840-\ua8ff\ua930-\ua9ff\uaa60-\uaa7f\uaae0-\uaaff\uabc0-\uabff\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc\U00011000-\U00011fff"
)
_EMOJI = "\u00a9\u00ae\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_FLAG = "\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
"""The tags of the flags of England, Scotland and Wales: the only recommended sequences of tag characters."""
_HAN = "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"

_NONCHARACTERS = "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
# Characters by the name of what happens to them, as ranges.
_ALWAYS = {
    "control": "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f",
    "line_separator": "\x0b\x0c\x85\u2028\u2029",
    "lone_surrogate": "\ud800-\udfff",
    "noncharacter": f"\ufdd0-\ufdef{_NONCHARACTERS}",
}
_INVISIBLE = {
    "byte_order_mark": "\ufeff",
    "soft_hyphen": "\u00ad",
    "joiner": "\u200c\u200d",
    "zero_width": "\u034f\u180b-\u180f\u200b\u2060-\u2065\u3164\uffa0",
    "tag_character": "\U000e0000-\U000e007f",
    "variation_selector": "\ufe00-\ufe0f\U000e0100-\U000e01ef",
}
_BIDI = {"bidi": "\u202a-\u202e\u2066-\u206f", "direction_mark": "\u061c\u200e\u200f"}
_KEEP = (
    f"(?P<keep>(?<=\U0001f3f4){_FLAG}"
    f"|(?<=[{_JOINING}])[\u200c\u200d]|[\u200c\u200d](?=[{_JOINING}])"
    f"|(?<=[{_EMOJI}])\ufe0f?\u200d(?=[{_EMOJI}])"
    # Khmer, Thai, Lao, Tibetan and Myanmar write no spaces; the zero-width one is their word border.
    "|(?<=[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff])\u200b"
    "|(?<=[\u1800-\u18af])[\u180b-\u180f]"
    # One selector after a character that can vary. After any other it only carries hidden bits.
    f"|(?<=[#*0-9{_EMOJI}\u1000-\u109f\u2200-\u22ff\ua840-\ua87f{_HAN}])[\ufe00-\ufe0f]|(?<=[{_HAN}])[\U000e0100-\U000e01ef])"
)
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DIGIT = re.compile(r"\d")
_REPLACED = {"line_separator": "\n", "lone_surrogate": "\ufffd"}


def clean_text(text: str, config: UnicodeConfig) -> tuple[str, dict[str, int]]:
    """``text`` by the policy, and what was done, by the names of ``COUNTS``.

    Control characters, noncharacters and lone surrogates go whatever the policy says: no tokenizer or JSON reader is sure to
    take them. The same object comes back when nothing changed. Cleaning twice gives what cleaning once gave.
    """
    if text.isascii() and (text.isprintable() or not _CONTROL.search(text)):
        return text, {}
    watched, rules = _rules(config.zero_width == "remove", config.bidi == "remove")
    normal = config.normalise == "off" or unicodedata.is_normalized(config.normalise, text)
    if normal and watched.isdisjoint(text):
        return text, {}
    counts: Counter[str] = Counter()
    found = _strip(text, rules, counts)
    if config.normalise != "off" and not unicodedata.is_normalized(config.normalise, found):
        counts["normalised"] = 1
        # Compatibility mapping can take away the character a joiner or selector belonged to: hence the second look.
        found = _strip(unicodedata.normalize(config.normalise, found), rules, counts)
        found = unicodedata.normalize(config.normalise, found)
    digits = _DIGIT.findall(found)
    foreign = sum(not digit.isascii() for digit in digits)
    if foreign and len({_zero_of(digit) for digit in digits}) > 1:
        counts["mixed_digits"] = 1
    if foreign and config.digits == "ascii":
        counts["digits_mapped"] = foreign
        found = _DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), found)
    return (text if found == text else found), dict(counts)


def clean_row(row: Row, config: UnicodeConfig) -> tuple[Row, dict[str, int]]:
    """Every text of the row by the policy, and the summed counts; the same object when nothing changed."""
    counts: Counter[str] = Counter()
    changed: dict[str, str] = {}
    for text in row.contents():
        new, found = clean_text(text, config)
        if found:
            counts.update(found)
        if new is not text:
            changed[text] = new
    return (row.map_contents(lambda text: changed.get(text, text)) if changed else row), dict(counts)


def _strip(text: str, rules: re.Pattern[str], counts: Counter[str]) -> str:
    right_to_left = _RIGHT_TO_LEFT.search(text) is not None

    def replace(match: re.Match[str]) -> str:
        name = match.lastgroup or ""
        if name == "keep" or (name == "direction_mark" and right_to_left):
            return match[0]
        counts[name] += 1
        return _REPLACED.get(name, "")

    return rules.sub(replace, text)


@cache
def _rules(invisible: bool, bidi: bool) -> tuple[frozenset[str], re.Pattern[str]]:
    """(every character that needs a closer look, the rules).

    A text without one of the first is clean: ``isdisjoint`` says so in a fifth of the time the pattern takes.
    """
    classes = _ALWAYS | (_INVISIBLE if invisible else {}) | (_BIDI if bidi else {})
    watched = "".join(classes.values())
    named = [f"(?P<{name}>[{ranges}])" for name, ranges in classes.items()]
    # The look ahead turns an ordinary character away before any rule is tried: three times as fast on Persian.
    pattern = f"(?=[{watched}])(?:{'|'.join([*([_KEEP] if invisible else []), *named])})"
    digits = (c for c in map(chr, range(0x80, 0x20000)) if unicodedata.decimal(c, None) is not None)
    return frozenset([*_members(watched), *digits]), re.compile(pattern)


def _members(ranges: str) -> Iterator[str]:
    """``a-cx`` -> a, b, c, x."""
    for first, last in re.findall("(.)(?:-(.))?", ranges, re.DOTALL):
        yield from map(chr, range(ord(first), ord(last or first) + 1))


@cache
def _zero_of(digit: str) -> str:
    """The zero of the digit's own system: digits of a system stand in a row."""
    return chr(ord(digit) - unicodedata.decimal(digit))
