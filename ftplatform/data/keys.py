"""What makes two rows the same: the normalised prompt and answer."""

from __future__ import annotations

from ftplatform.core.digests import digest_json
from ftplatform.core.rows import Message, Row
from ftplatform.data.text import normalise


def prompt_key(messages: tuple[Message, ...]) -> str:
    """SHA-256 of the normalised turns, system turns left out: the same question under two system prompts is one
    question."""
    return digest_json([[m.role, normalise(m.content)] for m in messages if m.role != "system"])


def question(row: Row) -> str:
    """Key of everything before the row's last answer: what decides its side of the split."""
    return prompt_key(row.messages[:-1])


def answer(row: Row) -> str:
    """The normalised last answer."""
    return normalise(row.messages[-1].content)


def learned_questions(row: Row) -> set[str]:
    """Keys of every question the row teaches an answer to: one per trained assistant turn."""
    return {prompt_key(row.messages[:i]) for i, m in enumerate(row.messages) if m.role == "assistant" and m.train}
