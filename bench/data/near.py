"""Duplicates, split and contamination: rows per CPU second, memory, recall, and what they take from real data.

    python -m bench.data.near [ROWS ...]

The first pass (keys and words) runs on texts of 200 characters. The global passes run on columns of random words (Zipf's law), one
row in ten a near copy of an earlier one and one in twenty an equal copy, each size in a process of its own so that its peak memory is
its own. BANKING77 is read from ../shared/data when it is there.
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from ftplatform.core.dataset_config import ContaminationConfig, SplitConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.compare.columns import DATA, TEST_FILE, BlockKeys, Columns, ColumnWriter, block_keys
from ftplatform.data.compare.contamination import KINDS, find_contamination
from ftplatform.data.compare.dedup import find_exact
from ftplatform.data.compare.minhash import BOTH, Banding, write_bands
from ftplatform.data.compare.near import find_near
from ftplatform.data.compare.split import OUT, TEST, TRAIN, VALIDATION, remove_leaks, split_sides
from ftplatform.demo.datasets import write_good_dataset

RESULT = Path(__file__).parents[1] / "results" / "data-near.md"
SHARED = Path(__file__).parents[3] / "shared" / "data"
SIZES = (10_000, 100_000, 500_000, 2_000_000)
BLOCK, WORDS, ANSWER_WORDS, VOCABULARY = 2_000, 24, 10, 50_000
THRESHOLD = 0.85


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or SIZES
    measured = [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "bench.data.near", "--one", str(size)], check=True, capture_output=True
            ).stdout
        )
        for size in sizes
    ]
    lines = [
        "# Duplicates, split, contamination",
        "",
        f"{date.today()}, {os.cpu_count()} cores shared with other work, Python {sys.version.split()[0]}, numpy {np.__version__}. Made by "
        "`python -m bench.data.near`. CPU seconds of one process, one thread.",
        "",
        *first_pass(),
        "",
        "| rows | exact, s | near, s | split and leaks, s | contamination, s | µs a row | peak memory, MB | recall of planted near copies |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {m['rows']:,} | {m['exact']:.2f} | {m['near']:.2f} | {m['split']:.2f} | {m['contamination']:.2f} | "
            f"{sum(m[k] for k in ('exact', 'near', 'split', 'contamination')) / m['rows'] * 1e6:.1f} | {m['megabytes']:.0f} | {m['recall']:.4f} |"
            for m in measured
        ),
        "",
        "Peak memory is the process's largest resident size, pages of mapped files and 75 MB of Python and numpy included.",
        "",
        *real_data(),
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


def one(count: int) -> dict[str, float]:
    """The global passes over ``count`` rows of random words."""
    with tempfile.TemporaryDirectory() as folder:
        columns, copies = made_up(Path(folder), count)
        seconds = [time.process_time()]
        exact = find_exact(columns.exact, columns.subject)
        seconds.append(time.process_time())
        near = find_near(columns, exact.keep, THRESHOLD, folder=Path(folder))
        seconds.append(time.process_time())
        sides = split_sides(columns.place, columns.group_place, columns.origin, SplitConfig())
        sides[~exact.keep] = OUT
        sides, _ = remove_leaks(columns, sides)
        seconds.append(time.process_time())
        held = (sides == VALIDATION) | (sides == TEST)
        find_contamination(columns, sides == TRAIN, held, None, ContaminationConfig(), folder=Path(folder))
        seconds.append(time.process_time())
        names = ("exact", "near", "split", "contamination")
        return {
            "rows": count,
            **dict(zip(names, np.diff(seconds).tolist(), strict=True)),
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "recall": float(np.isin(copies, near.later).mean()),
        }


def made_up(folder: Path, count: int) -> tuple[Columns, np.ndarray]:
    """Columns of random words, and the rows that are near copies (the first word is another one: similarity 21 of 23)."""
    rng = np.random.default_rng(7)
    writer, copies, made = ColumnWriter(folder), [], 0
    while made < count:
        n = min(BLOCK, count - made)
        words = (rng.zipf(1.2, (n, WORDS + ANSWER_WORDS)) % VOCABULARY).astype(np.uint32) * np.uint32(2654435762)
        length = np.full(n, WORDS, np.int32)
        kinds = rng.random(n)
        source = rng.integers(0, max(1, n // 2), n)
        near, equal = (
            np.flatnonzero((kinds >= low) & (kinds < high) & (np.arange(n) >= n // 2))
            for low, high in ((0, 0.2), (0.2, 0.3))
        )
        keys = rng.integers(0, 2**63, (n, 2), dtype=np.uint64)
        # Only the first half is copied, so that a copy's source is not a copy itself.
        words[near] = words[source[near]]
        words[near, 0] = rng.integers(0, 2**31, len(near), dtype=np.uint32) * 2
        words[equal], keys[equal] = words[source[equal]], keys[source[equal]]
        copies.append(made + near)
        writer.add(
            BlockKeys(
                exact=keys, question=keys, subject=keys, place=keys[:, 0] / 2**63, group_place=np.full(n, np.nan),
                asked=np.full(n, -1, np.int32), learned=keys[:0], learned_count=np.zeros(n, np.int32), words=words.ravel(),
                question_words=length, answer_words=np.full(n, ANSWER_WORDS, np.int32),
            )
        )  # fmt: skip
        made += n
    return writer.close(), np.concatenate(copies)


def first_pass() -> list[str]:
    rng = random.Random(7)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(20_000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(vocabulary, k=length // 6))[:length]

    rows = [chat(text(150), text(50)) for _ in range(20_000)]
    block_keys(rows[:1])
    with tempfile.TemporaryDirectory() as folder:
        writer = ColumnWriter(Path(folder))
        begin = time.process_time()
        for at in range(0, len(rows), BLOCK):
            writer.add(block_keys(rows[at : at + BLOCK]))
        columns = writer.close()
        keys = time.process_time() - begin
        begin = time.process_time()
        write_bands(
            columns,
            np.arange(len(rows)),
            BOTH,
            np.zeros(0, np.uint64),
            Banding.of(THRESHOLD),
            Path(folder) / "bands",
            map,
        )
        bands = time.process_time() - begin
    return [
        f"{len(rows):,} chat rows of 200 characters: keys and hashed words {len(rows) / keys:,.0f} rows per CPU second, shingles and MinHash "
        f"bands {len(rows) / bands:,.0f}, both {len(rows) / (keys + bands):,.0f}.",
    ]


def real_data() -> list[str]:
    """What is found in data whose rows are alike by nature."""
    tickets = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_100, 20_000):
            lines = write_good_dataset(Path(folder), rows=count).read_text(encoding="utf-8").splitlines()
            tickets[f"demo tickets (templated), {count:,} rows"] = [
                Row.from_json({**json.loads(line), "source": "a:1"}) for line in lines
            ]
    cases: dict[str, tuple[list[Row], list[Row]]] = {name: (rows, []) for name, rows in tickets.items()}
    if SHARED.is_dir():
        train, test = (
            [
                chat(r["text"], r["category"])
                for r in csv.DictReader((SHARED / f"banking77_{side}.csv").open(encoding="utf-8"))
            ]
            for side in ("train", "test")
        )
        cases |= {"BANKING77, split by us": ([*train, *test], []), "BANKING77, its own test file": (train, test)}
    return [
        "Counts on real and on templated data, default settings:",
        "",
        "| data | rows | equal | near | leaks | in training | contaminated: " + ", ".join(KINDS) + " |",
        "|---|---|---|---|---|---|---|",
        *(_counts(name, rows, own) for name, (rows, own) in cases.items()),
    ]


def _counts(name: str, rows: list[Row], own: list[Row]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        writer = ColumnWriter(Path(folder))
        writer.add(block_keys(rows), DATA)
        writer.add(block_keys(own), TEST_FILE)
        columns = writer.close()
        exact = find_exact(columns.exact, columns.subject, columns.origin == DATA)
        near = find_near(columns, exact.keep & (columns.origin == DATA), THRESHOLD, folder=Path(folder))
        sides = split_sides(columns.place, columns.group_place, columns.origin, SplitConfig())
        sides[~exact.keep] = OUT
        sides, leaking = remove_leaks(columns, sides)
        held = (sides == VALIDATION) | (sides == TEST)
        found = find_contamination(columns, sides == TRAIN, held, None, ContaminationConfig(), folder=Path(folder))
    kinds = ", ".join(str(found.count(kind)) for kind in range(len(KINDS)))
    return (
        f"| {name} | {len(rows) + len(own):,} | {int((~exact.keep).sum())} | {len(near.later)} | {leaking} | "
        f"{int((sides == TRAIN).sum()):,} | {kinds} |"
    )


def chat(asked: str, answer: str) -> Row:
    return Row((Message("user", asked, False), Message("assistant", answer)), "a:1")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]))))
    else:
        main()
