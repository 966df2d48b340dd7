"""The row profile: numbers about every row as a table, and the pandera schema every curated row must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ftplatform.core.rows import KINDS, ROLES, Finding, Row

if TYPE_CHECKING:
    import pandas as pd

LONGEST_CONTENT = 1_000_000
"""Characters in one message; a document may have ten times as many."""
_TEXTS = ("source", "kind", "roles", "last_role", "language")
_COUNTS = ("empty", "longest", "turns", "trained", "user_chars", "assistant_chars")
_FLAGS = ("has_system", "complete")


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row, scalar columns only.

    ``source``, ``kind``, ``roles`` (``user,assistant``), ``last_role`` (``text`` for a document), ``language``,
    ``empty`` (messages of white space without a call), ``longest`` (characters of the longest text), ``turns``
    (assistant messages), ``trained`` (those that carry loss), ``user_chars``, ``assistant_chars`` (a document's too),
    ``has_system``, ``complete`` (whether the row has what its kind needs at its end).
    """
    import pandas as pd

    table = pd.DataFrame.from_records([_record(row) for row in rows], columns=[*_TEXTS, *_COUNTS, *_FLAGS])
    return table.astype(dict.fromkeys(_TEXTS, "str") | dict.fromkeys(_COUNTS, "int64") | dict.fromkeys(_FLAGS, "bool"))


def _record(row: Row) -> tuple[Any, ...]:
    messages = (*row.messages, *row.chosen, *row.rejected)
    user = assistant = turns = trained = empty = longest = 0
    for message in messages:
        length = len(message.content)
        longest = max(longest, length)
        empty += not message.tool_calls and not message.content.strip()
        if message.role == "assistant":
            assistant += length
            turns += 1
            trained += message.train
        elif message.role == "user":
            user += length
    last = row.chosen[-1].role if row.chosen else row.messages[-1].role if row.messages else "text"
    return (
        row.source,
        row.kind,
        ",".join([m.role for m in messages]) or "text",
        last,
        row.tags.get("language", ""),
        empty,
        max(longest, len(row.text) // 10),
        turns,
        trained,
        user,
        assistant + len(row.text),
        any(m.role == "system" for m in row.messages),
        _complete(row),
    )


def _complete(row: Row) -> bool:
    def answered(turns: tuple[Any, ...]) -> bool:
        return bool(turns) and turns[-1].role == "assistant"

    if row.kind == "text":
        return bool(row.text.strip())
    if row.kind == "preference":
        return bool(row.messages) and answered(row.chosen) and answered(row.rejected)
    if row.kind == "prompt":
        return bool(row.messages)
    trained = any(m.train for m in row.messages if m.role == "assistant")
    return answered(row.messages) and trained and (row.kind == "chat" or row.label is not None)


@cache
def _schema() -> Any:
    import pandera.pandas as pa

    role = "|".join(ROLES)
    return pa.DataFrameSchema(
        {
            "source": pa.Column("str", pa.Check.str_length(min_value=1)),
            "kind": pa.Column("str", pa.Check.isin(KINDS, error="kind known")),
            "roles": pa.Column(
                "str", pa.Check.str_matches(rf"^(?:text|(?:{role})(?:,(?:{role}))*)$", error="roles known")
            ),
            "last_role": pa.Column("str"),
            "language": pa.Column("str"),
            "empty": pa.Column("int64", pa.Check.eq(0, error="no empty message")),
            "longest": pa.Column("int64", pa.Check.in_range(0, LONGEST_CONTENT, error="message length")),
            "turns": pa.Column("int64", pa.Check.ge(0)),
            "trained": pa.Column("int64", pa.Check.ge(0)),
            "user_chars": pa.Column("int64", pa.Check.ge(0)),
            "assistant_chars": pa.Column("int64", pa.Check.ge(0)),
            "has_system": pa.Column("bool"),
            "complete": pa.Column(
                "bool",
                pa.Check.eq(
                    True, error="ends as its kind needs: a trained answer, a pair of answers, a prompt, a text"
                ),
            ),
        },
        strict=True,
    )


def check_schema(table: pd.DataFrame) -> list[Finding]:
    """Validate a profile lazily and return every failure, a finding each."""
    import pandera.pandas as pa

    try:
        _schema().validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        return [_finding(table, case) for case in errors.failure_cases.to_dict("records")]
    return []


def _finding(table: pd.DataFrame, case: dict) -> Finding:
    index = case["index"]
    source = str(table["source"].iloc[int(index)]) if isinstance(index, int | float) and index == index else ""
    file, _, line = source.rpartition(":")
    return Finding(
        code="schema",
        severity="error",
        file=file,
        line=int(line) if line.isdigit() else 0,
        path=str(case["column"]),
        found=str(case["failure_case"])[:80],
        accepted=str(case["check"]),
    )
