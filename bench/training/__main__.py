"""``python -m bench.training loop|memory|startup|goodput|checkpoints|gpu [options]``; ``--help`` after the part's name says more."""

from __future__ import annotations

import importlib
import sys

PARTS = ("loop", "memory", "startup", "goodput", "checkpoints", "gpu")


def main() -> None:
    part, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if part not in PARTS:
        sys.exit(f"usage: python -m bench.training {{{','.join(PARTS)}}} [options]")
    importlib.import_module(f"bench.training.{part}").main(rest)


if __name__ == "__main__":
    main()
