"""Packing: every token once, documents whole and apart, the same bytes again."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftplatform.core.errors import DataRefused
from ftplatform.data.tables import counts_table, length_histogram, markdown_table
from ftplatform.data.tokens.pack import Packed, assign, pack, unpack
from ftplatform.data.tokens.tokenize import IGNORED, TokenizedRow

PAD = 9999


def document(number: int, length: int) -> TokenizedRow:
    """Every token names its document and its place; all but the first third carry loss."""
    ids = np.arange(length, dtype=np.int32) + number * 100 + 1
    labels = np.where(np.arange(length) < length // 3, IGNORED, ids).astype(np.int32)
    return TokenizedRow(f"a:{number}", ids, labels, 1)


def documents_in(packed: Packed) -> list[list[tuple[int, int]]]:
    """(id, label) pairs of each document, told apart by positions alone."""
    found: list[list[tuple[int, int]]] = []
    for ids, labels, positions in zip(packed.input_ids, packed.labels, packed.position_ids, strict=True):
        starts = [*np.flatnonzero(positions == 0).tolist(), len(ids)]
        for start, end in pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            found.append(list(zip(ids[start:end].tolist(), labels[start:end].tolist(), strict=True)))
    return found


@st.composite
def packable(draw: st.DrawFn) -> tuple[int, list[int]]:
    limit = draw(st.integers(1, 64))
    return limit, draw(st.lists(st.integers(1, limit), max_size=80))


@given(packable())
def test_every_token_is_there_once_and_no_label_crosses_documents(case: tuple[int, list[int]]) -> None:
    limit, lengths = case
    rows = [document(n, length) for n, length in enumerate(lengths)]
    packed = pack(rows, limit, PAD)
    found = documents_in(packed)
    padding = [d for d in found if d[0][0] == PAD]
    texts = [d for d in found if d[0][0] != PAD]
    assert sorted([i for i, _ in d] for d in texts) == sorted(row.input_ids.tolist() for row in rows)
    assert all(pair == (PAD, IGNORED) for d in padding for pair in d)
    assert all(d[0][1] == IGNORED for d in texts), "the first token of a document would be predicted from its neighbour"
    learned = sorted(label for d in texts for _, label in d if label != IGNORED)
    assert learned == sorted(label for row in rows for label in row.labels[1:].tolist() if label != IGNORED)
    assert packed.supervised == len(learned)
    assert packed.tokens == sum(lengths)
    assert packed.fill == pytest.approx(packed.tokens / max(1, packed.input_ids.size))
    assert packed.documents == len(rows)
    assert packed.input_ids.shape == packed.labels.shape == packed.position_ids.shape == (packed.sequences, limit)


def one_by_one(lengths: list[int], capacity: int) -> int:
    """Bins of best-fit decreasing as the textbook has it: the longest left, where it leaves least."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - length)
    return len(rooms)


@given(packable())
def test_packing_needs_as_many_sequences_as_best_fit_decreasing_row_by_row(case: tuple[int, list[int]]) -> None:
    limit, lengths = case
    bins = assign(np.array(lengths, dtype=np.int64), limit)
    used = np.bincount(bins, weights=lengths) if lengths else np.zeros(0)
    assert (used <= limit).all()
    assert len(used) == one_by_one(lengths, limit)
    fewest = max(-(-sum(lengths) // limit), sum(2 * n > limit for n in lengths))
    assert len(used) <= 11 / 9 * fewest + 4


def test_the_tightest_room_is_taken() -> None:
    assert assign(np.array([7, 6, 3, 4]), 10).tolist() == [0, 1, 0, 1]


def test_sequences_follow_the_order_of_the_rows() -> None:
    bins = assign(np.random.default_rng(2).integers(1, 20, 100), 20).tolist()
    firsts = [bins.index(number) for number in range(max(bins) + 1)]
    assert firsts == sorted(firsts)


def test_a_row_that_does_not_fit_or_is_empty_is_refused() -> None:
    with pytest.raises(DataRefused, match="a:1 has 17 tokens"):
        pack([document(0, 3), document(1, 17)], 16, PAD)
    with pytest.raises(DataRefused, match="a:0 has 0 tokens"):
        pack([document(0, 0)], 16, PAD)


def test_no_rows_make_an_empty_shard_that_reads_back() -> None:
    packed = pack([], 16, PAD)
    assert (packed.sequences, packed.tokens, packed.supervised, packed.fill) == (0, 0, 0, 0.0)
    assert unpack(packed.to_bytes())["labels"].shape == (0, 16)


def test_a_shard_reads_back_and_its_bytes_do_not_depend_on_the_process() -> None:
    packed = pack([document(n, 5 + n) for n in range(8)], 16, PAD)
    arrays = unpack(packed.to_bytes())
    assert set(arrays) == {"input_ids", "labels", "position_ids"}
    assert np.array_equal(arrays["labels"], packed.labels)
    program = (
        "import sys, hashlib; sys.path.insert(0, 'tests')\n"
        "from test_data_pack import *\n"
        "data = pack([document(n, 5 + n) for n in range(8)], 16, PAD).to_bytes()\n"
        "print(hashlib.sha256(data).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_table_cells_cannot_break_out_and_long_tables_say_so() -> None:
    table = markdown_table([{"a": "x|y\nz <b>", "b": 0.123456}] * 25)
    assert table.splitlines()[2] == "| x\\|y z &lt;b&gt; | 0.1235 |"
    assert table.endswith("5 more.")
    assert counts_table({"a": 1, "b": 5}, "reason").splitlines()[2] == "| b | 5 |"


def test_the_length_histogram_is_a_picture() -> None:
    assert length_histogram([1, 5, 9], "Lengths", limit=8).startswith(b"\x89PNG")
    assert length_histogram([], "Nothing").startswith(b"\x89PNG")
