"""What an upload's file is, which format it is of, and its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ftplatform.core.dataset_config import Columns, DatasetConfig
from ftplatform.data.importing.columnar import batch_blocks, batch_records, columns_of_file
from ftplatform.data.importing.containers import FileType, Unreadable, file_type, open_stream
from ftplatform.data.importing.delimited import delimiter_of, header_of, table_records
from ftplatform.data.importing.documents import document_records
from ftplatform.data.importing.formats import DETECTION_ROWS, FORMATS, detect, known_columns, label_of, mapped
from ftplatform.data.importing.json_array import array_records
from ftplatform.data.importing.json_values import Nothing, is_cut, parse_json, read_loosely
from ftplatform.data.importing.lines import BLOCK_BYTES, Block, Problem, gather, line_blocks

SYNTHETIC_FILE = "synthetic.jsonl"
"""Rows that ``synthetic_rows`` wrote."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the blocks of a file are read; travels with each to its worker."""

    file: str
    type: FileType
    format: str
    """As in dataset.yaml; ``csv`` is a table by its columns."""
    detected_by: str
    tags: tuple[str, ...] = ()
    """Columns kept as tags."""
    columns: Columns | None = None
    """With format ``csv``: which column is what."""
    header: tuple[str, ...] = ()
    """Column names of a CSV file."""
    detected: bool = True


def open_file(name: str, path: Path, config: DatasetConfig, size: int = BLOCK_BYTES) -> tuple[Reading, Iterator[Block]]:
    """How the file is to be read, and its blocks of about ``size`` bytes.

    Raises:
        Unreadable: it cannot be read at all; what is wrong further on comes as a ``Problem`` in a block.
        OSError: the disk refuses.
    """
    if name == SYNTHETIC_FILE:
        # The platform wrote it, in one format, whatever the customer's own files are in.
        config = config.model_copy(update={"format": "openai-chat", "columns": None})
    kind = file_type(name, path)
    header: tuple[str, ...] = ()
    delimiter = "\t" if kind.container == "tsv" else ","
    if kind.container in ("csv", "tsv"):
        delimiter = delimiter_of(open_stream(path, kind.compression), delimiter)
        names, problem = header_of(open_stream(path, kind.compression), delimiter)
        if problem:
            raise Unreadable("missing_column", problem)
        header = tuple(names)
        if len(set(header)) < len(header):
            raise Unreadable("missing_column", f"two columns of one name; columns: {', '.join(header)}")
    elif kind.is_table:
        header = tuple(columns_of_file(path, kind.container))
    blocks = _guarded(_blocks(path, kind, delimiter, len(header), size))
    sample, blocks = _sample(blocks)
    return _reading(name, kind, header, sample, config), blocks


def _blocks(path: Path, kind: FileType, delimiter: str, columns: int, size: int) -> Iterator[Block]:
    if kind.container in ("parquet", "arrow"):
        return batch_blocks(path, kind.container, size)
    stream = open_stream(path, kind.compression)
    if kind.container == "jsonl":
        return line_blocks(stream, size)
    if kind.container == "array":
        return gather(array_records(stream, size), size)
    if kind.container == "text":
        return gather(document_records(stream, size), size)
    return gather(table_records(stream, delimiter, columns, size), size)


def _guarded(blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks; where the file cannot be read further, a last one that says so."""
    last = 0
    try:
        for block in blocks:
            last = block.numbers[-1] if block.numbers else last
            yield block
    except Unreadable as error:
        yield Block((last + 1,), (Problem(error.code, error.found, last=True),))


def _sample(blocks: Iterator[Block]) -> tuple[list[tuple[int, Any, bool]], Iterator[Block]]:
    """The first records (line, record, ended) that are not blank lines, and all blocks that have any."""
    head: list[Block] = []
    sample: list[tuple[int, Any, bool]] = []
    for block in blocks:
        records = batch_records(block.records) if isinstance(block.records, bytes) else block.records
        there = [(n, r, block.ended) for n, r in zip(block.numbers, records, strict=True) if not is_blank(r)]
        if there:
            head.append(block)
            sample += there
        if len(sample) >= DETECTION_ROWS:
            break
    return sample[:DETECTION_ROWS], chain(head, blocks)


def is_blank(record: Any) -> bool:
    return isinstance(record, bytes) and (not record or record.isspace())


def _reading(
    name: str, kind: FileType, header: tuple[str, ...], sample: list[tuple[int, Any, bool]], config: DatasetConfig
) -> Reading:
    columns, wanted = config.columns, config.format
    tags = columns.tags if columns else ()
    packed = f", {kind.compression}" if kind.compression else ""

    def reading(form: str, by: str, chosen: Columns | None = None, detected: bool = True) -> Reading:
        return Reading(name, kind, form, by + packed, tags, chosen, header, detected)

    if kind.container == "text":
        if wanted not in ("auto", "text"):
            raise Unreadable("unknown_format", f"dataset.yaml says {wanted}, but the file is plain text")
        return reading("text", f"file name ends in {Path(name.removesuffix('.gz').removesuffix('.zst')).suffix}")
    values = [(n, value) for n, record, ended in sample if (value := _quiet(record, ended, header)) is not Nothing]
    if kind.is_table and not values and header:
        values = [(1, dict.fromkeys(header, ""))]
    asks = columns is not None and mapped(columns)[1]
    if wanted == "csv" or (wanted == "auto" and asks):
        chosen = columns if asks else None
        if chosen is None:
            keys = header or next((tuple(v) for _, v in values if isinstance(v, dict)), ())
            chosen = known_columns(keys, tags)
            if chosen is None:
                raise Unreadable("missing_column", f"columns: {', '.join(map(str, keys)) or 'none'}")
        form, keys_of = mapped(chosen)
        needed = [*keys_of.values(), *tags]
        if not form:
            raise Unreadable(
                "missing_column", f"dataset.yaml names {', '.join(keys_of)}, which make no example together"
            )
        if kind.is_table and (missing := [c for c in needed if c not in header]):
            raise Unreadable("missing_column", f"no column {', '.join(missing)}; columns: {', '.join(header)}")
        fits = any(isinstance(v, dict) and all(c in v for c in keys_of.values()) for _, v in values)
        if kind.is_table or wanted == "csv" or fits:
            return reading(
                "csv",
                f"columns of dataset.yaml: {', '.join(keys_of.values())}"
                if asks
                else f"columns {', '.join(keys_of.values())}",
                chosen,
                False,
            )
    if wanted not in ("auto", "csv"):
        if kind.is_table and (lacks := FORMATS[wanted].missing(header)):
            raise Unreadable(
                "unknown_format",
                f"dataset.yaml says {wanted}, but there is no column {lacks[0][0]}; columns: {', '.join(header)}",
            )
        return reading(wanted, "dataset.yaml", detected=False)
    form, by = detect(values)
    if form:
        if kind.is_table:
            by = f"columns {', '.join(next(k for k in names if k in header) for names in FORMATS[form].required)}"
        return reading(form, by)
    if kind.is_table or values:
        keys = header or next((tuple(v) for _, v in values if isinstance(v, dict)), ())
        if (chosen := known_columns(keys, tags)) is not None:
            return reading("csv", f"columns {chosen.user}, {chosen.assistant}", chosen)
        label = label_of(keys) if "text" in keys else ""
        beside = f" (a text with {label!r} beside it is not taken for a document)" if label else ""
        if kind.is_table:
            raise Unreadable("missing_column", f"columns: {', '.join(header)}{beside}")
        by += beside
    raise _unknown(by, sample)


def _unknown(by: str, sample: list[tuple[int, Any, bool]]) -> Unreadable:
    if not sample:
        return Unreadable("empty_file", "only white space")
    _, record, ended = sample[0]
    if isinstance(record, Problem):
        return Unreadable(record.code, record.found)
    text = record.decode("utf-8", "replace")
    # A file whose only fault is that it was cut off deserves to be called that.
    if len(sample) == 1 and not ended and text.lstrip().startswith("{") and is_cut(text):
        return Unreadable("truncated_file", "a first line that stops in the middle of its JSON object")
    return Unreadable("unknown_format", by or f"a first line that is no JSON object: {text.strip()}")


def _quiet(record: Any, ended: bool, header: tuple[str, ...]) -> Any:
    """The value of a record, without reports; ``Nothing`` for none."""
    if isinstance(record, Problem):
        return Nothing
    if isinstance(record, bytes):
        value = parse_json(record, ended, _ignore)
        # A row that is bad for a key given twice or a byte of another encoding still shows what the others will be.
        return value if value is not Nothing else read_loosely(record)
    if isinstance(record, list):
        return dict(zip(header, record, strict=True))
    return {k: v for k, v in record.items() if v is not None}


def _ignore(*_: Any, **__: Any) -> None:
    """The same value is parsed again, with its reports, when its block is imported."""
