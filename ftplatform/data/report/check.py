"""A set of files looked at as curation will look at it, without a platform: the row report and what the rows hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from ftplatform.core.dataset_config import DatasetConfig, PiiConfig
from ftplatform.core.rows import Row
from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.compare.keys import row_keys
from ftplatform.data.importing.ingest import ingest
from ftplatform.data.language.detect import detect
from ftplatform.data.pii.scrubber import Scrubber, open_scrubber
from ftplatform.data.report.report import RowReport
from ftplatform.data.workers import Workers, map_ordered

EXAMPLES = 10
Progress = Callable[[int], None]
"""Called with the bytes of accepted rows looked at since the last call."""


@dataclass(frozen=True, slots=True)
class Checked:
    report: RowReport
    canonical_bytes: int
    pii: dict[str, int]
    """Findings by entity that the dataset's policy would treat; nothing with ``pii.policy: off``."""
    pii_examples: list[dict[str, str]]
    """At most ten {source, entity, found (masked)}."""
    duplicates: int
    """Accepted rows whose question and answer are those of an earlier one."""
    languages: dict[str, int]
    """ISO 639-1 code -> accepted rows, the commonest first; empty with ``language.detect: false``."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one block holds."""

    size: int
    pii: dict[str, int]
    examples: list[dict[str, str]]
    keys: bytes
    """16 bytes a row."""
    languages: Counter[str]


def check_files(
    files: list[tuple[str, Path]],
    config: DatasetConfig,
    folder: Path,
    *,
    workers: Workers = 1,
    on_rows: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Import ``files`` (name, place) into the empty ``folder`` and look at the accepted rows.

    ``on_rows`` is called once, with the bytes of accepted rows that are then looked at.

    Raises:
        InvalidConfig: ``pii`` names an entity that does not exist.
        OSError: a file cannot be read, or ``folder`` is full; it takes about the size of the upload.
    """
    found = ingest(files, config, folder, workers=workers)
    parts = [part for part in (found.canonical, found.validation, found.test) if part is not None]
    total = sum(part.stat().st_size for part in parts)
    if on_rows is not None:
        on_rows(total)
    pii: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    examples: list[dict[str, str]] = []
    keys: list[bytes] = []
    look = partial(_look, config.pii.model_dump_json(), config.language.detect)
    for part in parts:
        for seen in map_ordered(look, read_blocks(part), workers):
            pii.update(seen.pii)
            languages.update(seen.languages)
            examples += seen.examples[: EXAMPLES - len(examples)]
            keys.append(seen.keys)
            if progress is not None:
                progress(seen.size)
    return Checked(
        found.report,
        total,
        dict(sorted(pii.items())),
        examples,
        _repeated(b"".join(keys)),
        dict(sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
    )


def _look(pii: str, languages: bool, block: bytes) -> _Seen:
    rows = rows_of(block)
    scrubbed = _scrubber(pii).scrub(rows)
    return _Seen(
        len(block),
        scrubbed.counts,
        scrubbed.examples,
        b"".join(row_keys(row).exact for row in rows),
        Counter(found.language for found in detect([_spoken(row) for row in rows])) if languages else Counter(),
    )


@cache
def _scrubber(pii: str) -> Scrubber:
    # Nothing that is replaced is kept, so the pseudonyms need no secret of their own.
    return open_scrubber(PiiConfig.model_validate_json(pii), b"check")


def _spoken(row: Row) -> str:
    """What people say in a row; the system turn, the same in every row, would drown a short question."""
    turns = [m.content for m in (*row.messages, *row.chosen, *row.rejected) if m.role in ("user", "assistant")]
    return "\n".join([*turns, row.text])


def _repeated(keys: bytes) -> int:
    import numpy as np

    pairs = np.frombuffer(keys, dtype=[("a", "<u8"), ("b", "<u8")])
    return len(pairs) - len(np.unique(pairs))
