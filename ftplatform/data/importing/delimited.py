"""CSV and TSV -> records of cells; where a record ends only the reader of quotes knows, so it reads in order."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from ftplatform.data.importing.containers import Stream
from ftplatform.data.importing.lines import BLOCK_BYTES, LONGEST_LINE, Problem, explain_decoding, line_blocks, too_long

csv.field_size_limit(LONGEST_LINE)
# The csv module's own limit of 131,072 characters would make a long document unreadable.


class _RecordTooLong(Exception):
    pass


class _Texts:
    """The lines of the file as text, for ``csv.reader``, with what is wrong with those of the record at hand."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._blocks = line_blocks(stream, size)
        self._lines = self._read()
        self.number = 0
        """Of the last line given."""
        self.ended = True
        self.problem: Problem | None = None
        self._length = 0

    def new_record(self) -> None:
        self.problem, self._length = None, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = next(self._lines)
        self.number += 1
        self._length += len(text)
        if self._length > LONGEST_LINE:
            # A quote that is never closed would otherwise gather the rest of the file.
            raise _RecordTooLong
        return text

    def _read(self) -> Iterator[str]:
        for block in self._blocks:
            for record in block.records:
                if isinstance(record, Problem) or len(record) > LONGEST_LINE:
                    self.problem = record if isinstance(record, Problem) else too_long(len(record))
                    yield "\n"
                    continue
                self.ended = block.ended
                try:
                    text = record.decode()
                except UnicodeDecodeError as error:
                    self.problem = self.problem or Problem("not_utf8", explain_decoding(record, error))
                    text = record.decode("utf-8", "replace")
                yield text + "\n" if block.ended else text


def delimiter_of(stream: Stream, usual: str) -> str:
    """What stands between the cells of the first line: ``usual``, unless another one makes more columns of it.
    Excel writes semicolons where the decimal sign is a comma."""
    line = next((text for text in _Texts(stream, BLOCK_BYTES)), "")
    cells = {delimiter: _cells(line, delimiter) for delimiter in (usual, ";", "\t", ",")}
    return usual if cells[usual] > 1 else max(cells, key=lambda delimiter: cells[delimiter])


def _cells(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0


def header_of(stream: Stream, delimiter: str) -> tuple[list[str], str]:
    """Column names of the first line, and why there are none."""
    texts = _Texts(stream, BLOCK_BYTES)
    try:
        cells = next(csv.reader(texts, delimiter=delimiter, strict=True), [])
    except (csv.Error, _RecordTooLong) as error:
        if "new-line character" in str(error):
            return [], "lines that end in a carriage return alone, as old Macintosh programs write them"
        return [], f"a header that is not CSV: {error or 'too long'}"
    if texts.problem:
        return [], texts.problem.found
    if not any(cell.strip() for cell in cells):
        return [], "a first line without column names"
    return [cell.strip() for cell in cells], ""


def table_records(
    stream: Stream, delimiter: str, columns: int, size: int = BLOCK_BYTES
) -> Iterator[tuple[int, list[str] | Problem, int]]:
    """``(line the record begins on, its cells, a guess of its bytes)``, the header left out; blank lines too."""
    texts = _Texts(stream, size)
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    next(reader, None)
    while True:
        start = texts.number + 1
        texts.new_record()
        record: list[str] | Problem
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _RecordTooLong:
            record = too_long(texts._length)
        except csv.Error as error:
            closed = "unexpected end of data" not in str(error)
            record = (
                Problem("invalid_csv", str(error))
                if closed
                else Problem("truncated_file", f"a quoted cell opened in the record of line {start} is never closed")
            )
        else:
            if not any(cell.strip() for cell in cells) and texts.problem is None:
                continue
            record = texts.problem or cells
            if isinstance(record, list) and len(record) != columns:
                record = Problem("wrong_cell_count", f"{len(cells)} cells under {columns} columns")
                if len(cells) < columns and not texts.ended:
                    record = Problem(
                        "truncated_file", f"the last line has {len(cells)} of {columns} cells and no line end"
                    )
        yield start, record, texts._length
