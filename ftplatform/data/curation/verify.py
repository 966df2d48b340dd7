"""The result of curation read again: what is still in it, and its profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftplatform.core.rows import Finding, Row
from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.curation.expectations import SAMPLE
from ftplatform.data.curation.prepare import Preparation, tools_of
from ftplatform.data.curation.schema import check_schema, frame
from ftplatform.data.report.problems import finding
from ftplatform.data.text import SHOWN_ROWS, SPECIAL_TOKEN
from ftplatform.data.workers import Workers, map_ordered

if TYPE_CHECKING:
    import pandas as pd

_SHORT_ANSWER = 40
"""Characters; a longer answer is hardly a label."""
_MOST_ANSWERS = 20_000
_LEAST_BYTES = 200
"""A canonical row is hardly ever shorter; with it the size of a file bounds its number of rows."""


@dataclass(frozen=True, slots=True)
class _Block:
    profile: pd.DataFrame
    personal: list[dict[str, str]]
    personal_count: int
    violations: list[Finding]
    violation_count: int
    answers: Counter[str]


@dataclass(slots=True)
class Verified:
    rows: int = 0
    personal: list[dict[str, str]] = field(default_factory=list)
    """The first findings of personal data that is still there: {source, entity, found (masked)}."""
    personal_count: int = 0
    violations: list[Finding] = field(default_factory=list)
    """The first violations of the row schema."""
    violation_count: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """Rows by answer, of short answers: the balance of labels where answers are labels."""
    profiles: list[pd.DataFrame] = field(default_factory=list)

    @property
    def profile(self) -> pd.DataFrame:
        """The frame of ``ftplatform.data.curation.schema``; of very many rows, evenly spaced ones."""
        import pandas as pd

        return pd.concat(self.profiles, ignore_index=True) if self.profiles else frame([])


def verify(splits: Mapping[str, Path], settings: Preparation, workers: Workers) -> Verified:
    """Scan every row of the splits again for personal data and against the schema."""
    found = Verified()
    step = max(1, sum(path.stat().st_size for path in splits.values()) // (SAMPLE * _LEAST_BYTES))
    for path in splits.values():
        for block in map_ordered(partial(_look, settings), read_blocks(path), workers):
            found.profiles.append(block.profile.iloc[-found.rows % step :: step])
            found.rows += len(block.profile)
            found.personal = [*found.personal, *block.personal][:SHOWN_ROWS]
            found.personal_count += block.personal_count
            found.violations = [*found.violations, *block.violations][:SHOWN_ROWS]
            found.violation_count += block.violation_count
            found.answers.update(block.answers)
            if len(found.answers) > _MOST_ANSWERS:
                found.answers = Counter(dict(found.answers.most_common(_MOST_ANSWERS // 2)))
    return found


def _look(settings: Preparation, block: bytes) -> _Block:
    rows = rows_of(block)
    profile = frame(rows)
    violations = [*check_schema(profile), *_control_tokens(rows)]
    scrubber = tools_of(settings).scrubber
    personal = scrubber.find(rows)
    # Keys and card numbers must not be in a model whatever else the settings let through.
    personal += [found for found in scrubber.find_secrets(rows) if found not in personal]
    answers = Counter(
        row.messages[-1].content
        for row in rows
        if row.kind in ("chat", "labelled") and len(row.messages[-1].content) <= _SHORT_ANSWER
    )
    return _Block(profile, personal[:SHOWN_ROWS], len(personal), violations[:SHOWN_ROWS], len(violations), answers)


def _control_tokens(rows: Sequence[Row]) -> Iterator[Finding]:
    """Control tokens that no importer saw: put together when invisible characters went, or in dataset.yaml's ``system``."""
    for row in rows:
        for text in row.contents():
            if ("<" in text or "[" in text) and (token := SPECIAL_TOKEN.search(text)):
                file, _, line = row.source.rpartition(":")
                yield finding("special_token_in_content", file, int(line), token[0])
                break
