"""Packing: every token once, documents whole and apart, the same bytes again."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from ftplatform.core.errors import DataRefused
from ftplatform.data.pack import Packed, assign, pack, unpack
from ftplatform.data.tables import counts_table, length_histogram, markdown_table
from ftplatform.data.tokenize import IGNORED, TokenizedRow

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


@pytest.mark.parametrize("seed", range(6))
def test_every_token_is_there_once_and_no_label_crosses_documents(seed: int) -> None:
    rng = random.Random(seed)
    limit = rng.choice([16, 33, 64])
    rows = [document(n, rng.randint(1, limit)) for n in range(60)]
    packed = pack(rows, limit, PAD)
    found = documents_in(packed)
    padding = [d for d in found if d[0][0] == PAD]
    texts = [d for d in found if d[0][0] != PAD]
    assert sorted(i for d in texts for i, _ in d) == sorted(i for row in rows for i in row.input_ids.tolist())
    assert sorted([i for i, _ in d] for d in texts) == sorted(row.input_ids.tolist() for row in rows)
    assert all(pair == (PAD, IGNORED) for d in padding for pair in d)
    assert all(d[0][1] == IGNORED for d in texts), "the first token of a document would be predicted from its neighbour"
    learned = sorted(label for d in texts for _, label in d if label != IGNORED)
    assert learned == sorted(label for row in rows for label in row.labels[1:].tolist() if label != IGNORED)
    assert packed.supervised == len(learned)
    assert packed.tokens == sum(len(row.input_ids) for row in rows)
    assert packed.fill == pytest.approx(packed.tokens / packed.input_ids.size)
    assert packed.documents == 60
    assert packed.input_ids.shape == packed.labels.shape == packed.position_ids.shape == (packed.sequences, limit)


def test_packing_stays_within_the_bound_of_best_fit_decreasing() -> None:
    rng = random.Random(1)
    for _ in range(30):
        limit = rng.randint(8, 200)
        lengths = [rng.randint(1, limit) for _ in range(rng.randint(1, 300))]
        bins = assign(lengths, limit)
        assert sorted(i for members in bins for i in members) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in members) <= limit for members in bins)
        fewest = max(-(-sum(lengths) // limit), sum(2 * n > limit for n in lengths))
        assert len(bins) <= 11 / 9 * fewest + 4


def test_the_tightest_room_is_taken() -> None:
    assert assign([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]


def test_sequences_follow_the_order_of_the_rows() -> None:
    bins = assign([random.Random(2).randint(1, 20) for _ in range(100)], 20)
    assert [members[0] for members in bins] == sorted(members[0] for members in bins)


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
