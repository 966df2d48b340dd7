"""Synthetic rows: which rows are seeds, what a teacher is asked, and what of its answers becomes a row."""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ftplatform.core.dataset_config import SyntheticConfig
from ftplatform.core.digests import canonical_json, digest_bytes
from ftplatform.core.errors import DataRefused
from ftplatform.core.rows import Message, Row
from ftplatform.data.importing.opening import SYNTHETIC_FILE
from ftplatform.data.text import SPECIAL_TOKEN, normalise, shorten

SOURCE_TAG, SYNTHETIC = "source", "synthetic"
TEACHER_TAG, SEED_TAG = "teacher", "seed_row"
COPY = 0.9
"""Jaccard similarity of the words from which a text counts as a copy of its seed."""
EXAMPLES = 3
"""Seeds shown to the teacher for one new pair."""
_WORDS = re.compile(r"\w+")
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)

PARAPHRASE = """Rewrite the message below in other words. Keep its meaning, its language, about its length, and every name, number \
and placeholder (such as <EMAIL_ADDRESS>) in it. Answer with the rewritten message and nothing else.

Message:
{question}"""
GENERATE = """These are examples of a question and its right answer, one JSON object per line:

{examples}

Write one more: another question that the same users could ask, and its right answer, in the same language, form and length. Answer \
with one JSON object with the keys "question" and "answer" and nothing else."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the teacher."""

    number: int
    seed: Row
    body: dict[str, Any]
    """Of ``POST /chat/completions``."""


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    finish: str
    """``stop``, or ``length`` when it was cut."""


@dataclass(slots=True)
class Written:
    rows: list[Row] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """{call, seed, reason, found} of every answer that became no row."""

    @property
    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(str(failure["reason"]) for failure in self.failures).items()))

    def fail(self, call: Call, reason: str, found: object = "") -> None:
        entry = {"call": call.number, "seed": call.seed.hash, "reason": reason, "found": shorten(found)}
        self.failures.append(entry)


def draw_seeds(rows: Iterable[Row], config: SyntheticConfig) -> list[Row]:
    """``config.seeds`` of the training rows, fewer when there are no more: those with the smallest hash of seed number and content.

    So a row stays a seed while the data grows around it. Rows that are synthetic themselves are no seeds (a teacher that learns from
    itself drifts), nor are rows with tools or of another kind than chat.

    Raises:
        DataRefused: no row can be a seed.
    """

    def rank(row: Row) -> str:
        return digest_bytes(f"{config.seed}:{row.hash}".encode())

    seeds = heapq.nsmallest(config.seeds, (row for row in rows if _can_be_seed(row)), key=rank)
    if not seeds:
        raise DataRefused(
            "synthetic rows need training rows of kind chat with a question and an answer, without tools, that are not synthetic "
            "themselves; there is none"
        )
    return seeds


def _can_be_seed(row: Row) -> bool:
    roles = [message.role for message in row.messages]
    plain = row.kind == "chat" and not row.tools and "tool" not in roles
    return plain and roles[-2:] == ["user", "assistant"] and row.tags.get(SOURCE_TAG) != SYNTHETIC


def plan_calls(seeds: Sequence[Row], config: SyntheticConfig) -> list[Call]:
    """``per_seed`` calls for each seed; each has a sampling seed of its own."""
    calls: list[Call] = []
    for place, seed in enumerate(seeds):
        for _ in range(config.per_seed):
            number = len(calls)
            body = {
                "model": config.model,
                "messages": [{"role": "user", "content": _prompt(place, seeds, config)}],
                "temperature": config.temperature,
                "max_tokens": config.max_tokens,
                "seed": config.seed + number,
            }
            calls.append(Call(number, seed, body))
    return calls


def _prompt(place: int, seeds: Sequence[Row], config: SyntheticConfig) -> str:
    if config.kind == "paraphrase":
        return PARAPHRASE.format(question=_question(seeds[place]))
    # The seed last: what stands nearest to the end is followed most.
    shown = [seeds[(place + i) % len(seeds)] for i in reversed(range(min(EXAMPLES, len(seeds))))]
    pairs = [{"question": _question(row), "answer": row.messages[-1].content} for row in shown]
    return GENERATE.format(examples="\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs))


def _question(row: Row) -> str:
    return row.messages[-2].content


def write_rows(calls: Sequence[Call], answers: Mapping[int, Answer | str], config: SyntheticConfig) -> Written:
    """Rows from the answers, in the order of the calls; what cannot be used is counted and listed with its reason.

    ``answers`` holds an ``Answer``, or the reason why a call got none. Reasons: ``no_answer``, ``cut`` (ended by ``max_tokens``),
    ``empty``, ``not_json`` (``generate`` only), ``special_token``, ``too_long`` (over ten times the seed's question or answer),
    ``copy_of_seed`` and ``copy_of_another``.
    """
    written, known = Written(), set[bytes]()
    for call in calls:
        answer = answers.get(call.number, "not asked")
        if isinstance(answer, str):
            written.fail(call, "no_answer", answer)
            continue
        text = _THOUGHTS.sub("", answer.text).strip()
        if answer.finish == "length":
            written.fail(call, "cut", text)
            continue
        row = _paraphrased(call.seed, text) if config.kind == "paraphrase" else _generated(call.seed, text)
        reason = _unusable(call.seed, row, text, known)
        if row is None or reason is not None:
            written.fail(call, reason or "empty", text)
            continue
        known.add(_key(row))
        provenance = {SOURCE_TAG: SYNTHETIC, TEACHER_TAG: config.model, SEED_TAG: call.seed.hash}
        written.rows.append(
            replace(row, source=f"{SYNTHETIC_FILE}:{len(written.rows) + 1}", tags={**row.tags, **provenance})
        )
    return written


def to_upload(rows: Iterable[Row]) -> bytes:
    """The rows as an openai-chat file; a weight stands on assistant turns only, as that format wants it."""
    return b"".join(
        canonical_json({"messages": [_turn(message) for message in row.messages], "tags": row.tags}) + b"\n"
        for row in rows
    )


def _turn(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.to_json().items() if name != "weight" or message.role == "assistant"}


def _paraphrased(seed: Row, text: str) -> Row | None:
    """The seed with its last question in other words; only the last answer is learned, as the turns before are the seed's own."""
    question = text.removeprefix("Message:").strip()
    if len(question) > 1 and question[0] == question[-1] == '"':
        question = question[1:-1].strip()
    *before, asked, answer = seed.messages
    turns = (
        *(replace(m, train=False) if m.role == "assistant" else m for m in before),
        replace(asked, content=question),
    )
    return Row((*turns, replace(answer, train=True)), "", dict(seed.tags)) if question else None


def _generated(seed: Row, text: str) -> Row | None:
    """A new pair below the seed's system turn; None when the answer holds no such JSON object."""
    pair = find_pair(text)
    if pair is None:
        return None
    system = tuple(message for message in seed.messages if message.role == "system")
    return Row((*system, Message("user", pair[0]), Message("assistant", pair[1])), "")


def find_pair(text: str) -> tuple[str, str] | None:
    """(question, answer) of the first JSON object in ``text`` that has both as texts that are not blank; code fences do not matter."""
    decoder = json.JSONDecoder()
    # Bounded, because each start is tried to its end: an answer of a million braces must not take for ever.
    for match in list(re.finditer(r"\{", text))[:20]:
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (json.JSONDecodeError, RecursionError):
            continue
        pair = (value.get("question"), value.get("answer")) if isinstance(value, dict) else (None, None)
        if isinstance(pair[0], str) and isinstance(pair[1], str) and pair[0].strip() and pair[1].strip():
            return pair[0].strip(), pair[1].strip()
    return None


def _unusable(seed: Row, row: Row | None, text: str, known: set[bytes]) -> str | None:
    if row is None:
        return "not_json" if text else "empty"
    question, answer = _question(row), row.messages[-1].content
    if SPECIAL_TOKEN.search(question) or SPECIAL_TOKEN.search(answer):
        return "special_token"
    if len(question) > 10 * len(_question(seed)) + 200 or len(answer) > 10 * len(seed.messages[-1].content) + 200:
        return "too_long"
    if similarity(question, _question(seed)) >= COPY:
        return "copy_of_seed"
    return "copy_of_another" if _key(row) in known else None


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the sets of normalised words; 1 for texts that are equal after normalising."""
    first, second = normalise(one), normalise(other)
    if first == second:
        return 1.0
    words, others = set(_WORDS.findall(first)), set(_WORDS.findall(second))
    return len(words & others) / len(words | others) if words | others else 0.0


def _key(row: Row) -> bytes:
    return canonical_json([[m.role, normalise(m.content)] for m in row.messages])
