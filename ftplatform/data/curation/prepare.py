"""The first pass of curation: what can be said and done about a row without looking at any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.blocks import line_of, rows_of
from ftplatform.data.compare.columns import BlockKeys, block_keys
from ftplatform.data.language.detect import UNDETERMINED, detect
from ftplatform.data.language.tagging import open_tagger
from ftplatform.data.language.toxicity import Toxicity, measure, open_toxicity, score_rows
from ftplatform.data.language.unicode_text import clean_row
from ftplatform.data.pii.scrubber import open_scrubber
from ftplatform.data.synthetic.rows import SOURCE_TAG, SYNTHETIC
from ftplatform.data.text import SHOWN_ROWS


@dataclass(frozen=True, slots=True)
class Preparation:
    """What the work on a block depends on; travels to the workers with every block."""

    config: str
    """``DatasetConfig`` as JSON."""
    secret: bytes
    """The tenant's key, behind pseudonyms and subject keys."""
    prompts: tuple[str, ...] = ()
    """Evaluation prompts in the form of ``normalise``; a row that asks number i has ``asked`` i."""


@dataclass(slots=True)
class Totals:
    """What was counted; blocks add up."""

    read: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)
    pii_examples: list[dict[str, str]] = field(default_factory=list)
    cleaned: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    toxicity: Toxicity = field(default_factory=lambda: Toxicity(0, 0, ()))

    def add(self, other: Totals) -> None:
        self.read += other.read
        for name in ("removed", "pii", "cleaned", "languages", "scripts"):
            getattr(self, name).update(getattr(other, name))
        self.pii_examples = [*self.pii_examples, *other.pii_examples][:SHOWN_ROWS]
        self.toxicity = self.toxicity + other.toxicity


@dataclass(frozen=True, slots=True)
class Prepared:
    lines: bytes
    """Canonical JSON of the rows that stay, a line each."""
    keys: BlockKeys
    synthetic: NDArray[np.bool_]
    subjects: list[tuple[int, bytes]]
    """(row of this block, subject key): whom the row was about before it was scrubbed."""
    totals: Totals


class Tools:
    """What a worker opens once: models, word lists, patterns."""

    def __init__(self, config: str, secret: bytes) -> None:
        self.config = DatasetConfig.model_validate_json(config)
        self.scrubber = open_scrubber(self.config.pii, secret)
        self.toxicity = open_toxicity(self.config.toxicity)
        self.tagger = open_tagger(self.config.tagging)


@cache
def _tools(config: str, secret: bytes) -> Tools:
    return Tools(config, secret)


def tools_of(settings: Preparation) -> Tools:
    """This process's tools for the settings, opened at the first call."""
    return _tools(settings.config, settings.secret)


@cache
def _numbers(prompts: tuple[str, ...]) -> dict[str, int]:
    return {prompt: number for number, prompt in enumerate(prompts)}


def prepare(settings: Preparation, held_out: bool, block: bytes) -> Prepared:
    """The rows of a block with the system turn, clean Unicode, no personal data, a language and tags; and their keys.

    Rows of the customer's own held-out files (``held_out``) are changed the same way but never left out for what they
    say: a score must be about the questions they sent. Only ``drop_row`` of the personal-data policy takes them.
    """
    tools, totals = tools_of(settings), Totals()
    config = tools.config
    rows = rows_of(block)
    totals.read = len(rows)
    cleaned = [clean_row(row, config.unicode) for row in with_system(rows, config.system)]
    for _, counts in cleaned:
        totals.cleaned.update(counts)
    rows = [row for row, _ in cleaned]
    scrubbed = tools.scrubber.scrub(rows)
    totals.pii.update(scrubbed.counts)
    totals.pii_examples = scrubbed.examples[:SHOWN_ROWS]
    kept = [(i, row) for i, row in enumerate(scrubbed.rows) if row is not None]
    totals.removed["personal_data"] = len(rows) - len(kept)
    kept = _judged(kept, tools, totals, held_out)
    done = [row for _, row in kept]
    now = {old: new for new, (old, _) in enumerate(kept)}
    return Prepared(
        lines=b"".join(map(line_of, done)),
        keys=block_keys(done, group_by=config.split.group_by, prompts=_numbers(settings.prompts)),
        synthetic=np.array([row.tags.get(SOURCE_TAG) == SYNTHETIC for row in done], np.bool_),
        subjects=[(now[row], key) for row, key in scrubbed.subjects if row in now],
        totals=totals,
    )


def with_system(rows: Sequence[Row], system: str | None) -> Sequence[Row]:
    """Rows with the dataset's system turn in front of those that have none; documents have no turns."""
    if not system:
        return rows
    turn = Message("system", system, train=False)
    return [
        row
        if row.kind == "text" or any(m.role == "system" for m in row.messages)
        else replace(row, messages=(turn, *row.messages))
        for row in rows
    ]


def said(row: Row) -> str:
    """What is judged for language and toxicity: everything but the system turns, which are the customer's own frame."""
    texts = [m.content for m in (*row.messages, *row.chosen, *row.rejected) if m.role in ("user", "assistant")]
    return "\n".join([*texts, row.text] if row.text else texts)


def _judged(kept: list[tuple[int, Row]], tools: Tools, totals: Totals, held_out: bool) -> list[tuple[int, Row]]:
    """Rows with their tags, without those that the language and toxicity policies leave out."""
    config, rows = tools.config, [row for _, row in kept]
    tags = tools.tagger(rows)
    texts = list(map(said, rows))
    languages = [UNDETERMINED] * len(rows)
    out = np.zeros(len(rows), np.bool_)
    if config.language.detect:
        found = detect(texts)
        languages = [row.tags.get("language", one.language) for row, one in zip(rows, found, strict=True)]
        totals.languages.update(languages)
        totals.scripts.update(next(iter(one.scripts), "none") for one in found)
        tags = [
            own if language in (UNDETERMINED, own.get("language")) else own | {"language": language}
            for own, language in zip(tags, languages, strict=True)
        ]
        if config.language.allow and not held_out:
            other = np.array([one not in (*config.language.allow, UNDETERMINED) for one in languages], np.bool_)
            if config.language.others == "drop":
                totals.removed["language"] = int(other.sum())
                out |= other
    if tools.toxicity is not None and rows:
        scores = score_rows(tools.toxicity, rows, languages)
        totals.toxicity = measure(scores, texts, [row.source for row in rows], config.toxicity.threshold)
        toxic = scores >= config.toxicity.threshold
        for i in np.flatnonzero(toxic):
            tags[i] = tags[i] | {"toxic": "true"}
        if config.toxicity.policy == "drop" and not held_out:
            totals.removed["toxic"] = int((toxic & ~out).sum())
            out |= toxic
    return [
        (i, row if own is row.tags else replace(row, tags=own))
        for (i, row), own, gone in zip(kept, tags, out.tolist(), strict=True)
        if not gone
    ]


def as_json(totals: Totals) -> dict[str, Any]:
    """The counts for metadata and reports."""
    names = ("removed", "pii", "cleaned", "languages", "scripts")
    return {"read": totals.read} | {name: dict(sorted(getattr(totals, name).items())) for name in names}
