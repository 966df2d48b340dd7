"""Who a row was about: from a person's e-mail address or a row's hash to the rows of a version.

Scrubbed rows no longer say whom they were about, and the index must not either: it holds keyed hashes (HMAC-SHA256 with
the tenant's secret) of what was found, so that only someone who knows the address and runs the platform can look it up.
"""

from __future__ import annotations

import hmac
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.rows import SPLITS
from ftplatform.data.blocks import read_blocks, rows_of
from ftplatform.data.compare.dedup import Keys, Versions, compare_versions
from ftplatform.data.text import normalise

_NOISE = re.compile(r"[\s().\-]+")


def subject_key(secret: bytes, value: str) -> bytes:
    """Sixteen bytes that stand for a person's identifier, the same however it is cased, spaced or punctuated."""
    return hmac.digest(secret, _NOISE.sub("", normalise(value)).encode(), "sha256")[:16]


@dataclass(slots=True)
class Subjects:
    """(row, subject key) pairs of one version's prepared rows."""

    rows: list[NDArray[np.int64]] = field(default_factory=list)
    keys: list[NDArray[np.void]] = field(default_factory=list)

    def add(self, found: Sequence[tuple[int, bytes]], first_row: int) -> None:
        """``found`` counts rows from the block's first, which is ``first_row`` of the version."""
        if found:
            self.rows.append(np.array([row for row, _ in found], np.int64) + first_row)
            self.keys.append(np.frombuffer(b"".join(key for _, key in found), "V16"))


def write_index(prepared: Path, sides: NDArray[np.int8], exact: Keys, subjects: Subjects, into: Path) -> None:
    """The index of a version: a compressed NumPy archive of ``hash``, ``side``, ``exact`` (key of the normalised question
    and answer) and ``source``, per prepared row in order, and of ``subject`` and ``subject_row``.

    Rows that curation left out are in it too: that somebody's row is *not* in a version is an answer.
    """
    hashes, sources = into.with_suffix(".hashes"), into.with_suffix(".sources")
    with hashes.open("wb") as hash_stream, sources.open("wb") as source_stream:
        for block in read_blocks(prepared):
            rows = rows_of(block)
            hash_stream.write(b"".join(bytes.fromhex(row.hash)[:16] for row in rows))
            source_stream.write("".join(f"{row.source}\n" for row in rows).encode())
    np.savez_compressed(
        into,
        hash=_mapped(hashes, "V16"),
        side=sides,
        exact=exact,
        source=_mapped(sources, "u1"),
        subject=np.concatenate(subjects.keys) if subjects.keys else np.zeros(0, "V16"),
        subject_row=np.concatenate(subjects.rows) if subjects.rows else np.zeros(0, np.int64),
    )
    hashes.unlink()
    sources.unlink()


def changes(index: Path, earlier: Path) -> Versions:
    """How many distinct rows of a version are new against an earlier one, stayed, and are gone."""
    here, before = (found["exact"][found["side"] >= 0] for found in (np.load(index), np.load(earlier)))
    return compare_versions(here, before)


@dataclass(frozen=True, slots=True)
class Traced:
    source: str
    """``file:line`` of the upload."""
    hash: str
    """First 32 hexadecimal characters of the row's hash."""
    side: str
    """A split, or ``left out``."""


def look_up(
    index: bytes, *, subject: bytes | None = None, row_hash: str | None = None, source: str | None = None
) -> Iterator[Traced]:
    """The rows of one version that match any of what is given."""
    found = np.load(io.BytesIO(index))
    hashes, sides = found["hash"], found["side"]
    sources = found["source"].tobytes().decode().split("\n")
    hits: set[int] = set()
    if subject is not None:
        hits.update(found["subject_row"][found["subject"] == np.void(subject)].tolist())
    if row_hash is not None:
        hits.update(np.flatnonzero(hashes == np.void(bytes.fromhex(row_hash)[:16])).tolist())
    if source is not None:
        hits.update(i for i, one in enumerate(sources) if one == source)
    for i in sorted(hits):
        side = int(sides[i])
        yield Traced(sources[i], hashes[i].tobytes().hex(), SPLITS[side] if side >= 0 else "left out")


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    # Mapped and not read: of millions of rows they would be the largest thing in memory. An empty file cannot be mapped.
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
