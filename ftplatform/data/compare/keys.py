"""What makes two rows the same: the normalised prompt and answer, hashed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import orjson

from ftplatform.core.rows import Message, Row
from ftplatform.data.text import normalise

KEY_BYTES = 16
_SCALE = 2**52  # every value is exact in a float


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The keys of one row: each the first 16 bytes of a SHA-256, so that two texts share one about once in 10^38 pairs."""

    question: bytes
    """Everything before the last answer, system turns left out; the prompt of preference, labelled and prompt rows; the
    document of a text row."""
    exact: bytes
    """Kind, question and answer: rows with the same one are duplicates."""
    subject: bytes
    """What a row states an answer to: rows with the same subject and another ``exact`` contradict each other."""
    learned: tuple[bytes, ...]
    """Questions of earlier trained turns: what a conversation teaches besides ``question``."""
    place: float
    """Where the question stands in [0, 1); decides the side of the split."""
    group_place: float
    """Where the row's group stands in [0, 1); NaN for a row without one."""
    question_text: str
    """The normalised turns of ``question``, a line each; for word shingles."""
    answer_text: str
    """The normalised last answer (of preference rows: both), or nothing."""


def row_keys(row: Row, group_by: str | None = None) -> RowKeys:
    """The keys of a row; ``group_by`` names the tag that holds its group."""
    turns = [(m, normalise(m.content)) for m in row.messages if m.role != "system"]
    label: object = None
    if row.kind in ("chat", "labelled") and turns:
        before, last = turns[:-1], turns[-1:]
        label = row.label
    else:
        before, last = turns, []
    learned = _learned(before) if row.kind == "chat" else ()
    pieces = [_piece(m, text) for m, text in before]
    if row.kind == "text":
        document = normalise(row.text)
        pieces = [orjson.dumps(["text", document])]
        question_text = document
    else:
        question_text = _lines(before)
    question = _sha(pieces)
    answer_text, stated, subject = _answer(row, last)
    exact = sha256(b"%b\n%b\n%b\n%b" % (row.kind.encode(), question, stated, orjson.dumps(label))).digest()
    group = row.tags.get(group_by) if group_by else None
    return RowKeys(
        question=question[:KEY_BYTES],
        exact=exact[:KEY_BYTES],
        subject=sha256(b"%b\n%b\n%b" % (row.kind.encode(), question, subject)).digest()[:KEY_BYTES],
        learned=tuple(key[:KEY_BYTES] for key in learned),
        place=_place(question),
        group_place=math.nan if not group else _place(sha256(b"group\n" + group.encode()).digest()),
        question_text=question_text,
        answer_text=answer_text,
    )


def question(row: Row) -> str:
    """The whole question key, as 64 hexadecimal characters: SHA-256 of the JSON list of [role, normalised content]."""
    if row.kind == "text":
        return _sha([orjson.dumps(["text", normalise(row.text)])]).hex()
    turns = [(m, normalise(m.content)) for m in row.messages if m.role != "system"]
    return _sha([_piece(m, text) for m, text in (turns[:-1] if row.kind in ("chat", "labelled") else turns)]).hex()


def place(key: str) -> float:
    """A number in [0, 1) that depends on the key (64 hexadecimal characters) alone."""
    return _place(bytes.fromhex(key))


def _place(digest: bytes) -> float:
    hashed = sha256(b"ftplatform/split/" + digest.hex().encode()).digest()
    return (int.from_bytes(hashed[:7]) >> 4) / _SCALE


def _answer(row: Row, last: list[tuple[Message, str]]) -> tuple[str, bytes, bytes]:
    """The answer's text, what the row states (part of ``exact``), and what decides its subject besides the question."""
    if row.kind == "preference":
        chosen, rejected = (
            [(m, normalise(m.content)) for m in turns if m.role != "system"] for turns in (row.chosen, row.rejected)
        )
        both = [_sha([_piece(m, text) for m, text in side]) for side in (chosen, rejected)]
        return f"{_lines(chosen)}\n{_lines(rejected)}", b"".join(both), b"".join(sorted(both))
    if row.kind == "prompt":
        # A column may hold numbers as keys or dates; what JSON cannot say was refused at import.
        extra = orjson.dumps(row.extra, option=orjson.OPT_SORT_KEYS) if row.extra else b""
        return "", sha256(extra).digest(), b""
    if row.kind == "text":
        return "", b"", b""
    stated = _sha([_piece(m, text) for m, text in last])
    # Several answers to one prompt are what labelled rows are made of: they contradict only when one answer has two labels.
    return _lines(last), stated, stated if row.kind == "labelled" else b""


def _learned(before: list[tuple[Message, str]]) -> tuple[bytes, ...]:
    if not any(m.role == "assistant" and m.train for m, _ in before):
        return ()
    keys, so_far = [], sha256(b"[")
    for i, (message, text) in enumerate(before):
        if message.role == "assistant" and message.train:
            ended = so_far.copy()
            ended.update(b"]")
            keys.append(ended.digest())
        so_far.update((b"," if i else b"") + _piece(message, text))
    return tuple(dict.fromkeys(keys))


def _piece(message: Message, text: str) -> bytes:
    # Calls count only where there are some: the key of every plain conversation stays what it was before tools.
    if message.tool_calls:
        return orjson.dumps([message.role, text, [[c.name, c.arguments] for c in message.tool_calls]])
    return orjson.dumps([message.role, text])


def _lines(turns: Iterable[tuple[Message, str]]) -> str:
    return "\n".join("\n".join((text, *(c.name + " " + c.arguments for c in m.tool_calls))) for m, text in turns)


def _sha(pieces: list[bytes]) -> bytes:
    return sha256(b"[" + b",".join(pieces) + b"]").digest()
