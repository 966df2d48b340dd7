"""One JSON value of an upload -> Python, fast where it is right, explained where it is not."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from ftplatform.data.importing.lines import LONGEST_LINE, explain_decoding, too_long
from ftplatform.data.importing.row_findings import Report

DEEPEST = 100
"""Lists and objects inside each other; what is written again as JSON has a limit of 254."""
LARGEST_NUMBER = 2.0**63
_KEY = re.compile(rb'"\s*:')


class Nothing:
    """What ``parse_json`` returns for a value that cannot be had: JSON's null is a value."""


def parse_json(raw: bytes, ended: bool, report: Report) -> Any:
    """The value, or ``Nothing`` after a report. ``ended`` is False for the end of a file without a line break."""
    if len(raw) > LONGEST_LINE:
        problem = too_long(len(raw))
        report(problem.code, problem.found)
        return Nothing
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _explain(raw, ended, report)
    # Two keys of one name leave one value in the result. Every key has a quote and a colon behind it in the source, so
    # where these are no more than the keys that came out, none was lost; a text with such a pair in it is read again.
    spaced = b'" ' in raw or b'"\n' in raw or b'"\r' in raw or b'"\t' in raw
    if (len(_KEY.findall(raw)) if spaced else raw.count(b'":')) != _keys(value):
        return _explain(raw, ended, report)
    return value


def read_loosely(raw: bytes) -> Any:
    """The value for a look at its keys, whatever is wrong with it: of two keys of one name the last, letters of another
    encoding as Windows-1252 has them. ``Nothing`` when it is no JSON even so."""
    if len(raw) > LONGEST_LINE:
        return Nothing
    for text in (raw, raw.decode("cp1252", "replace")):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
    return Nothing


def unplain(value: Any, depth: int = 1) -> tuple[str, str] | None:
    """(code, found) of the first thing in ``value`` that cannot be kept as JSON; None when all can."""
    if depth > DEEPEST:
        return "nested_too_deeply", f"more than {DEEPEST} levels"
    match value:
        case None | bool():
            return None
        case str():
            return None if is_utf8(value) else ("not_utf8", "half of a surrogate pair, which is no character")
        case int() | float():
            fits = -LARGEST_NUMBER <= value < LARGEST_NUMBER
            return (
                None
                if fits
                else (
                    "number_out_of_range",
                    f"{value:.3g}" if isinstance(value, float) else "a whole number of more than 64 bits",
                )
            )
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str) or not is_utf8(key):
                    return "data_type", f"a key {key!r}"
                if found := unplain(inner, depth + 1):
                    return found
            return None
        case list() | tuple():
            return next((found for inner in value if (found := unplain(inner, depth + 1))), None)
        case _:
            return "data_type", f"{type(value).__name__} {value!r}"


def is_utf8(text: str) -> bool:
    """False for text with half of a surrogate pair (U+D800 to U+DFFF), which no file can hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_cut(text: str) -> bool:
    """Whether the JSON is right as far as it goes: the parser gave up at, or in a string that runs to, its end."""
    try:
        json.loads(text)
    except RecursionError:
        return False
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            return True
        # What is left is nothing, or the beginning of a number, true, false, null or escape.
        return error.msg != "Extra data" and re.fullmatch(r"[a-z0-9.+\\-]{0,8}\s*", text[error.pos :]) is not None
    except ValueError:
        return False
    return False


def _keys(value: Any) -> int:
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            count += len(one)
            waiting.extend(one.values())
        elif type(one) is list:
            waiting.extend(one)
    return count


def _explain(raw: bytes, ended: bool, report: Report) -> Any:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if not ended and error.reason == "unexpected end of data":
            report("truncated_file", "the last line stops inside a character")
        else:
            report("not_utf8", explain_decoding(raw, error))
        return Nothing
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(name for name in found if names.count(name) > 1)
        return found

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=_refuse_constant)
    except RecursionError:
        report("nested_too_deeply", "lists or objects nested a thousand deep or more")
    except json.JSONDecodeError as error:
        if not ended and is_cut(text):
            report("truncated_file", f"the last line stops after {len(text)} characters, inside its JSON object")
        else:
            around = text[max(0, error.pos - 20) : error.pos + 20].strip()
            report("invalid_json", f"{error.msg} at character {error.pos + 1}, near {around!r}")
    except ValueError as error:  # NaN or an infinity, or a whole number of more digits than Python converts
        report("invalid_json", str(error))
    else:
        for name in twice[:3]:
            report("duplicate_key", name)
        return Nothing if twice else value
    return Nothing


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name}, which is no JSON number")
