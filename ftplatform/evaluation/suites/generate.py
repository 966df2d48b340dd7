"""Writes the shipped suites' items, or checks that the committed files are what would be written.

    python -m ftplatform.evaluation.suites.generate [--check]

A score is comparable only between runs over the same bytes, so the files are committed; this proves where they are from.
"""

import argparse
import json
from pathlib import Path

from ftplatform.data.starter_text import SUITES, suite_items

FOLDER = Path(__file__).parent


def items_file(suite: str) -> Path:
    return FOLDER / suite / "items.jsonl"


def rendered(suite: str) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in suite_items(suite))


def stale() -> list[str]:
    """The suites whose committed items differ from the generated ones."""
    return [
        s for s in SUITES if not items_file(s).is_file() or items_file(s).read_text(encoding="utf-8") != rendered(s)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the shipped suites' items.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    if parser.parse_args().check:
        differing = stale()
        print(f"stale: {', '.join(differing)}" if differing else "all suites are as generated")
        return 1 if differing else 0
    for suite in SUITES:
        items_file(suite).write_text(rendered(suite), encoding="utf-8", newline="\n")
        print(f"wrote {items_file(suite)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
