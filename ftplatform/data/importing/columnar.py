"""Parquet and Arrow files -> record batches of bounded size, handed to workers as Arrow's own bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftplatform.data.importing.containers import LARGEST_RATIO, RATIO_FROM, Unreadable
from ftplatform.data.importing.lines import BLOCK_BYTES, BLOCK_ROWS, Block, Problem


def columns_of_file(path: Path, container: str) -> list[str]:
    """Column names.

    Raises:
        Unreadable: the file is damaged, or packed beyond proportion.
    """
    import pyarrow as pa

    try:
        names = list(
            _open(path, container).schema_arrow.names if container == "parquet" else _open(path, container).schema.names
        )
    except (pa.ArrowException, OSError) as error:
        raise _damaged(container, error) from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Unreadable("missing_column", f"two columns named {', '.join(twice)}")
    return names


def batch_blocks(path: Path, container: str, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Blocks whose ``records`` are the bytes of an Arrow stream; ``numbers`` are rows from 1.

    Raises:
        Unreadable: the file is damaged from there on.
    """
    import pyarrow as pa

    first = 1
    try:
        for batch in _batches(path, container, size):
            step = max(1, min(BLOCK_ROWS, size * batch.num_rows // max(1, batch.nbytes)))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, part.schema) as writer:
                    writer.write_batch(part)
                yield Block(range(first, first + part.num_rows), sink.getvalue().to_pybytes())
                first += part.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(container, error) from error


def batch_records(data: bytes) -> list[dict[str, Any] | Problem]:
    """The rows of one block as dicts; text that is not UTF-8 is a problem of its row."""
    import pyarrow as pa

    records: list[dict[str, Any] | Problem] = []
    for batch in pa.ipc.open_stream(data):
        try:
            batch.validate(full=True)
            records += batch.to_pylist()
        except (pa.ArrowException, UnicodeDecodeError, ValueError, OverflowError):
            records += [_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
    return records


def _row(batch: Any) -> dict[str, Any] | Problem:
    import pyarrow as pa

    try:
        batch.validate(full=True)
        row: dict[str, Any] = batch.to_pylist()[0]
    except (pa.ArrowException, UnicodeDecodeError, ValueError, OverflowError) as error:
        return Problem("not_utf8" if "UTF" in str(error) or "utf" in str(error) else "data_type", str(error))
    return row


def _open(path: Path, container: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if container == "parquet":
        # Without pre-buffering, a row group of any size is read a page at a time.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    source = pa.memory_map(str(path))
    magic = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)


def _batches(path: Path, container: str, size: int) -> Iterator[Any]:
    reader = _open(path, container)
    if container == "parquet":
        groups = [reader.metadata.row_group(i) for i in range(reader.metadata.num_row_groups)]
        unpacked, rows = sum(group.total_byte_size for group in groups), reader.metadata.num_rows
        if unpacked > max(RATIO_FROM, LARGEST_RATIO * path.stat().st_size):
            raise Unreadable("decompression_bomb", f"{path.stat().st_size:,} bytes that unpack to {unpacked:,}")
        yield from reader.iter_batches(max(1, min(BLOCK_ROWS, size * rows // max(1, unpacked))))
    elif hasattr(reader, "get_batch"):
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)
    else:
        yield from reader


def _damaged(container: str, error: Exception) -> Unreadable:
    return Unreadable("damaged_file", f"{container.title()} that cannot be read: {error}")
