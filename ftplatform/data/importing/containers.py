"""What a file is: its compression and its container, by the end of its name and by its first bytes."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

LARGEST_UNPACKED = 64 << 30
"""Bytes one compressed file may unpack to: eight times the largest upload OpenAI takes, and a disk still holds it."""
LARGEST_RATIO = 200
"""Unpacked bytes per packed byte: chat rows reach 5 to 20, a file of one row repeated about 100, a bomb 1,000 and more."""
RATIO_FROM = 64 << 20
"""Unpacked bytes up to which the ratio does not matter: so few do no harm."""
_HEAD = 1 << 16

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
}
_PACKED_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_PACKED_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_CONTAINER_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_FOREIGN_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or office document",
    b"BZh": "bzip2-compressed data",
    b"\xfd7zXZ": "xz-compressed data",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF document",
    b"FEA1": "Feather version 1 (write version 2)",
}
# UTF-32's little-endian mark begins with UTF-16's, so it is asked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32 (little endian)"),
    (codecs.BOM_UTF32_BE, "UTF-32 (big endian)"),
    (codecs.BOM_UTF16_LE, "UTF-16 (little endian)"),
    (codecs.BOM_UTF16_BE, "UTF-16 (big endian)"),
)


class Unreadable(Exception):
    """The file, or what is left of it, cannot be read: ``code`` and ``found`` as in a finding of the whole file."""

    def __init__(self, code: str, found: str) -> None:
        super().__init__(code, found)
        self.code, self.found = code, found


class Stream(Protocol):
    def read(self, size: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FileType:
    container: str
    """``jsonl``, ``array``, ``csv``, ``tsv``, ``parquet``, ``arrow`` or ``text``."""
    compression: str = ""
    """``gzip``, ``zstd`` or nothing."""

    @property
    def is_table(self) -> bool:
        return self.container in ("csv", "tsv", "parquet", "arrow")


class _Unpacked:
    """Unpacked bytes of a file of one or more gzip members or zstd frames, within the limits."""

    def __init__(self, path: Path, compression: str) -> None:
        import pyarrow as pa

        self._stream: Any = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), compression)
        self._packed = path.stat().st_size
        self._read = 0
        self._piece = b""
        self._problem: Unreadable | None = None

    def read(self, size: int) -> bytes:
        # Pieces of one size whatever is asked for: what can be had of a damaged file does not depend on the asking.
        if not self._piece and self._problem is None:
            try:
                self._piece = self._stream.read(_HEAD)
            except OSError as error:
                code = "truncated_file" if "Truncated" in str(error) else "damaged_file"
                self._problem = Unreadable(code, f"compressed data that cannot be unpacked: {error}")
            self._read += len(self._piece)
            if self._read > LARGEST_UNPACKED:
                self._problem = Unreadable("decompression_bomb", f"more than {LARGEST_UNPACKED:,} bytes when unpacked")
            elif self._read > max(RATIO_FROM, LARGEST_RATIO * self._packed):
                found = f"{self._packed:,} bytes that unpack to {self._read:,} and more"
                self._problem = Unreadable("decompression_bomb", found)
        if self._problem is not None:
            raise self._problem
        data, self._piece = self._piece[:size], self._piece[size:]
        return data


def open_stream(path: Path, compression: str) -> Stream:
    """The file's bytes, unpacked; ``read`` raises ``Unreadable`` where that is not possible."""
    return _Unpacked(path, compression) if compression else path.open("rb")


def file_type(name: str, path: Path) -> FileType:
    """What the file is.

    Raises:
        Unreadable: it is empty, not UTF-8, no container that is accepted, or its name and content contradict.
        OSError: it cannot be read.
    """
    head = _head(path, "")
    if not head:
        raise Unreadable("empty_file", "0 bytes")
    compression = next((kind for magic, kind in _PACKED_MAGIC.items() if head.startswith(magic)), "")
    suffix = Path(name).suffix.lower()
    if suffix in _PACKED_SUFFIXES:
        if _PACKED_SUFFIXES[suffix] != compression:
            raise Unreadable(
                "unknown_format", f"a name that ends in {suffix} and content that is not {_PACKED_SUFFIXES[suffix]}"
            )
        suffix = Path(Path(name).stem).suffix.lower()
    if compression:
        head = _head(path, compression)
        if any(head.startswith(magic) for magic in _PACKED_MAGIC):
            raise Unreadable("unknown_format", "data compressed twice")
    return FileType(_container(head, suffix, compression), compression)


def _head(path: Path, compression: str) -> bytes:
    # A pipe-like stream may give less than was asked for, and a format is told from this piece.
    stream, head = open_stream(path, compression), b""
    while len(head) < _HEAD and (piece := stream.read(_HEAD - len(head))):
        head += piece
    return head


def _container(head: bytes, suffix: str, compression: str) -> str:
    container = SUFFIXES.get(suffix, "")
    by_magic = next((kind for magic, kind in _CONTAINER_MAGIC.items() if head.startswith(magic)), "")
    if by_magic or container in ("parquet", "arrow"):
        if compression:
            raise Unreadable(
                "unknown_format", f"{(by_magic or container).title()} inside {compression}: it compresses by itself"
            )
        if by_magic != container:
            raise Unreadable(
                "unknown_format", f"a name that ends in {suffix or 'nothing'} and {by_magic or 'other'} content"
            )
        return container
    for magic, what in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise Unreadable("unknown_format", f"the file is {what}")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            raise Unreadable("not_utf8", f"the file is {encoding}")
    # Text in Latin script has a zero in every second byte in UTF-16, and hardly one in UTF-8.
    if len(head) >= 4 and head.count(0) > len(head) // 4:
        known = head[0] == 0 or head[1] == 0
        raise Unreadable(
            "not_utf8", "the file is UTF-16 without byte order mark" if known else "the file is binary data"
        )
    if not container:
        raise Unreadable("unknown_format", f"file name ends in {suffix or 'nothing'}")
    return _json_container(head, suffix) if container == "jsonl" else container


def _json_container(head: bytes, suffix: str) -> str:
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, ended, rest = text.partition(b"\n")
    if text.startswith(b"["):
        # In JSONL, a line that is a list is one bad row among others; the same line alone is a whole file.
        alone = suffix == ".json" or not ended or not rest.strip() or not _is_json(first)
        return "array" if alone else "jsonl"
    # One object spread over lines: its first line closes nothing that it opens.
    spread = re.fullmatch(rb'\{\s*|\{\s*"(?:[^"\\]|\\.)*"\s*:\s*[\[{]\s*', first) is not None and bool(ended)
    if spread or (suffix == ".json" and ended and first.startswith(b"{") and not _is_json(first) and b'"' not in first):
        raise Unreadable(
            "unknown_format", "one JSON object over the whole file instead of one per line, or a list of them"
        )
    return "jsonl"


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
