"""Which writing systems a text uses, counted for a whole block at once."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Unicode's blocks of the scripts in daily use, by the name of the property `Script` (Unicode Standard Annex 24).
_BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": (
        (0x41, 0x24F),
        (0x250, 0x2AF),
        (0x1D00, 0x1DBF),
        (0x1E00, 0x1EFF),
        (0x2C60, 0x2C7F),
        (0xA720, 0xA7FF),
        (0xFF21, 0xFF5A),
    ),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armenian": ((0x530, 0x58F), (0xFB13, 0xFB17)),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Syriac": ((0x700, 0x74F),),
    "Thaana": ((0x780, 0x7BF),),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Oriya": ((0xB00, 0xB7F),),
    "Tamil": ((0xB80, 0xBFF), (0x11FC0, 0x11FFF)),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F)),
    "Cherokee": ((0x13A0, 0x13FF), (0xAB70, 0xABBF)),
    "Khmer": ((0x1780, 0x17FF),),
    "Mongolian": ((0x1800, 0x18AF),),
    "Ol Chiki": ((0x1C50, 0x1C7F),),
    "Meetei Mayek": ((0xAAE0, 0xAAFF), (0xABC0, 0xABFF)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "Hiragana": ((0x3041, 0x309F),),
    "Katakana": ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "Han": (
        (0x2E80, 0x2FDF),
        (0x3005, 0x3007),
        (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF),
        (0x20000, 0x323AF),
    ),
}
SCRIPTS: tuple[str, ...] = ("Other", *_BLOCKS)
"""The columns of ``letter_counts``; ``Other`` is a letter of a script that is not in the table."""

_CODE_SYMBOLS = "{}[]()<>=;_\\|&*+$#^~%`"
_CHARACTERS_AT_ONCE = 1 << 18
"""Texts are counted in slices of about this many characters: some 5 MB of work arrays instead of 80 MB for a block."""


def letter_counts(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per text: letters of each script of ``SCRIPTS`` (texts x scripts), and symbols that code is made of (texts).

    A combining mark (an Indic vowel sign) counts as a letter; digits and punctuation belong to no script.
    """
    classes = len(SCRIPTS) + 2
    table = _table()
    parts = [np.zeros((0, classes), dtype=np.int64)]
    for start, stop in _slices(texts):
        part = texts[start:stop]
        points = np.frombuffer("".join(part).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        rows = np.repeat(np.arange(len(part), dtype=np.int64) * classes, [len(text) for text in part])
        parts.append(np.bincount(rows + table[points], minlength=len(part) * classes).reshape(len(part), classes))
    counts = np.concatenate(parts)
    return counts[:, : len(SCRIPTS)], counts[:, len(SCRIPTS)]


def shares(letters: NDArray[np.int64]) -> list[dict[str, float]]:
    """The counts of ``letter_counts`` as shares of each text's letters, largest first; empty without letters."""
    found: list[dict[str, float]] = [{} for _ in letters]
    texts, scripts = letters.nonzero()
    counts = letters[texts, scripts]
    order = np.lexsort((scripts, -counts, texts))
    rounded = (counts / letters.sum(axis=1)[texts]).round(4)
    for text, script, share in zip(
        texts[order].tolist(), scripts[order].tolist(), rounded[order].tolist(), strict=True
    ):
        found[text][SCRIPTS[script]] = share
    return found


def _slices(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = held = 0
    for index, text in enumerate(texts):
        held += len(text)
        if held >= _CHARACTERS_AT_ONCE:
            yield start, index + 1
            start, held = index + 1, 0
    if start < len(texts):
        yield start, len(texts)


@cache
def _table() -> NDArray[np.uint8]:
    """Code point -> column: a script, then code symbols, then everything else."""
    symbol, nothing = len(SCRIPTS), len(SCRIPTS) + 1
    table = np.full(0x110000, nothing, dtype=np.uint8)
    for point in range(0x80, 0x20000):
        if unicodedata.category(chr(point))[0] in "LM":
            table[point] = 0
    # Selectors, combining accents and modifier letters go with any script, so they count for none.
    table[0x2B0:0x370] = table[0x1AB0:0x1B00] = table[0x20D0:0x2100] = table[0xFE00:0xFE30] = nothing
    for index, blocks in enumerate(_BLOCKS.values(), start=1):
        for first, last in blocks:
            for point in range(first, last + 1) if last < 0x3400 else ():
                if unicodedata.category(chr(point))[0] in "LM":
                    table[point] = index
            if last >= 0x3400:
                table[first : last + 1] = index
    table[[ord(c) for c in _CODE_SYMBOLS]] = symbol
    return table
