"""Small text helpers that several data modules share."""

from __future__ import annotations

import re
import reprlib
import unicodedata

FOUND_LENGTH = 100
SHOWN_ROWS = 10
"""Worst rows kept in a check result."""

# `<|name|>` is the form of ChatML, Llama 3, Qwen, Phi and Command; DeepSeek writes its own with full-width bars; the others
# are the control tokens of Llama 2, Mistral and Gemma. What people may well write (<think>, <image>) is not among them.
SPECIAL_TOKEN = re.compile(
    r"<[|｜][A-Za-z0-9_▁-]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|<</?SYS>>|\[/?INST\]"
    r"|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CONTENT|TOOL_CALLS|MODEL_SETTINGS)\]"
)

_EMAIL = re.compile(r"\S+@\S+")
_DIGITS = re.compile(r"\d(?:[ ./()-]{0,2}\d){5,}")

# Python's own repr of a value nested a thousand deep ends in a RecursionError.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 8, 50, 50, 400, 400, 400


def normalise(text: str) -> str:
    """The form in which two texts count as the same: NFC, no outer white space, case folded."""
    return unicodedata.normalize("NFC", text).strip().casefold()


def shorten(value: object, length: int = FOUND_LENGTH) -> str:
    """A value as it may be shown in a report: one line, at most ``length`` characters, no control characters.

    E-mail addresses and numbers of six or more digits, grouped or not, are masked: more people read a row report than
    read the data.
    """
    text = value if isinstance(value, str) else _REPR.repr(value)
    text = text[: 4 * length]
    text = _DIGITS.sub(lambda m: re.sub(r"\d", "#", m[0]), _EMAIL.sub("<email>", text))
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"
