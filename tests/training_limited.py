"""The real training payload, allowed as many bytes beyond its start as the environment's first argument says.

``python training_limited.py BYTES spec.json``: everything heavy is imported first, so that the limit is about the training.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def limit(extra: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra,) * 2)


if __name__ == "__main__":
    extra = int(sys.argv.pop(1))
    from ftplatform.store.payload_io import run_payload
    from ftplatform.training.__main__ import main

    def limited(*arguments: object) -> object:
        import ftplatform.training.job  # noqa: F401

        limit(extra)
        return main(*arguments)  # type: ignore[arg-type]

    sys.exit(run_payload(limited))  # type: ignore[arg-type]
