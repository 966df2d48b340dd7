"""Fuzz the importers: ``python tests/fuzz_importers.py [SECONDS] [SEED]``; not collected by pytest.

Takes the files of ``tests/samples``, changes them at random (bytes, lines, tokens of the formats, names, compression,
block sizes, settings) and imports them. Stops with the traceback and the input (``fuzz-crash.bin``) when an import
raises, takes more than 20 s, or accounts for another number of rows than it read. Ends with what it covered.
"""

from __future__ import annotations

import gzip
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from import_support import load

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*/*"))
SUFFIXES = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".md", ".jsonl.gz", ".json.zst", ""]
TOKENS = [
    *b'{}[],:"\\\n\r\t\0\xff\xc3'.split(b"|"),
    *(bytes([b]) for b in b'{}[],:"\\\n\r\t\0\xff\xc3'),
    *(b'"messages":[', b'"role":"tool"', b'"content":null', b'"weight":2', b"NaN", b"1e999", b"9" * 30, b"\\ud800"),
    *(
        b'"tool_calls":[{}]',
        b'"function_call":{"name":"f"}',
        b'"tools":"["',
        b'"from":"function_call"',
        b'"tags":{"a":1}',
    ),
    *(
        b"[" * 2000,
        b'{"a":' * 300,
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"<|im_end|>",
        b"</s>",
        b"PAR1",
        b"\x1f\x8b",
        b"ARROW1",
    ),
]
SETTINGS = [
    {},
    {},
    {"max_bad_rows": 1000},
    {"format": "sharegpt"},
    {"format": "openai-reinforcement"},
    {"format": "csv"},
    {"format": "preference"},
    {"columns": {"user": "prompt", "assistant": "completion", "tags": ["tags"]}},
    {"columns": {"text": "text"}},
]


def mutate(data: bytes, pick: random.Random) -> bytes:
    for _ in range(pick.randint(1, 6)):
        at = pick.randint(0, len(data))
        match pick.randint(0, 6):
            case 0:
                data = data[:at] + bytes([pick.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + pick.choice(TOKENS) + data[at:]
            case 2:
                data = data[:at] + data[at + pick.randint(1, 40) :]
            case 3:
                data = data[: at or 1]
            case 4:
                lines = data.split(b"\n")
                pick.shuffle(lines)
                data = b"\n".join(lines)
            case 5:
                end = at + pick.randint(1, 60)
                data = data[:at] + data[at:end] * pick.randint(2, 30) + data[end:]
            case 6:
                other = pick.choice(SAMPLES).read_bytes()
                data = data[:at] + other[pick.randint(0, len(other)) :]
    return data[: 1 << 20]


def main(seconds: float, seed: int) -> None:
    pick, began, seen, tries = random.Random(seed), time.monotonic(), Counter[str](), 0

    def too_slow(*_: object) -> None:
        raise TimeoutError("one import took more than 20 s")

    signal.signal(signal.SIGALRM, too_slow)
    while time.monotonic() - began < seconds:
        sample = pick.choice(SAMPLES)
        data = mutate(sample.read_bytes(), pick)
        suffix = "".join(sample.suffixes) if pick.random() < 0.8 else pick.choice(SUFFIXES)
        if pick.random() < 0.1:
            data, suffix = gzip.compress(data), suffix + ".gz"
        settings, block = pick.choice(SETTINGS), pick.choice([3, 100, 1 << 20])
        folder = Path(tempfile.mkdtemp())
        signal.alarm(20)
        try:
            result = load(folder, {f"a{suffix}": data}, block=block, **settings)
            assert result.report.accepted + result.report.bad_rows == result.report.read
            assert len(result.rows) == result.report.rows
        except BaseException:
            Path("fuzz-crash.bin").write_bytes(data)
            print(f"seed {seed}, try {tries}: {sample.name} as a{suffix}, block {block}, {settings}", file=sys.stderr)
            raise
        finally:
            signal.alarm(0)
            shutil.rmtree(folder)
        tries += 1
        seen.update({f.code for f in result.findings} or {"(accepted)"})
    print(f"{tries} imports in {seconds:.0f} s, no crash. Imports with each code:")
    print("\n".join(f"  {code}: {n}" for code, n in seen.most_common()))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
