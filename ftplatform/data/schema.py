"""The canonical rows as a table, and the pandera schema every curated row must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftplatform.core.rows import ROLES, Finding, Row

if TYPE_CHECKING:
    import pandas as pd

LONGEST_CONTENT = 1_000_000
"""Characters in one message."""


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row, scalar columns only.

    ``source``, ``roles`` (``user,assistant``), ``last_role``, ``empty`` (messages of white space), ``longest``
    (characters of the longest message), ``turns`` (assistant messages), ``trained`` (those that carry loss),
    ``user_chars``, ``assistant_chars``, ``has_system``.
    """
    import pandas as pd

    def chars(row: Row, role: str) -> int:
        return sum(len(m.content) for m in row.messages if m.role == role)

    records = [
        {
            "source": row.source,
            "roles": ",".join(m.role for m in row.messages),
            "last_role": row.messages[-1].role if row.messages else "",
            "empty": sum(not m.content.strip() for m in row.messages),
            "longest": max((len(m.content) for m in row.messages), default=0),
            "turns": sum(m.role == "assistant" for m in row.messages),
            "trained": sum(m.role == "assistant" and m.train for m in row.messages),
            "user_chars": chars(row, "user"),
            "assistant_chars": chars(row, "assistant"),
            "has_system": any(m.role == "system" for m in row.messages),
        }
        for row in rows
    ]
    columns = [
        "source",
        "roles",
        "last_role",
        "empty",
        "longest",
        "turns",
        "trained",
        "user_chars",
        "assistant_chars",
        "has_system",
    ]
    table = pd.DataFrame.from_records(records, columns=columns)
    return table.astype(
        {"source": "str", "roles": "str", "last_role": "str", "has_system": "bool"}
        | dict.fromkeys(("empty", "longest", "turns", "trained", "user_chars", "assistant_chars"), "int64")
    )


def check_schema(table: pd.DataFrame) -> list[Finding]:
    """Validate the frame of canonical rows lazily and return every failure, a finding each."""
    import pandera.pandas as pa

    role = "|".join(ROLES)
    schema = pa.DataFrameSchema(
        {
            "source": pa.Column("str", pa.Check.str_length(min_value=1)),
            "roles": pa.Column("str", pa.Check.str_matches(rf"^(?:{role})(?:,(?:{role}))*$", name="roles known")),
            "last_role": pa.Column("str", pa.Check.eq("assistant", name="ends with an assistant message")),
            "empty": pa.Column("int64", pa.Check.eq(0, name="no empty message")),
            "longest": pa.Column("int64", pa.Check.in_range(1, LONGEST_CONTENT, name="message length")),
            "turns": pa.Column("int64", pa.Check.ge(1, name="has an assistant message")),
            "trained": pa.Column("int64", pa.Check.ge(1, name="has a trained message")),
            "user_chars": pa.Column("int64", pa.Check.ge(0)),
            "assistant_chars": pa.Column("int64", pa.Check.ge(1, name="has an answer")),
            "has_system": pa.Column("bool"),
        },
        strict=True,
    )
    try:
        schema.validate(table, lazy=True)
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
