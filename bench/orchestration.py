"""The fixed cost of the orchestration: everything of a job but its payloads.

    python -m bench.orchestration

One job on a tiny random base model, in this process, as `ft train` runs it: wall seconds per stage, and how much of them the
payloads took. Then the same job again, unchanged, which starts no payload: that is the price of recognising it. The demo's wall
time is read from the home's demo-summary.json when FTPLATFORM_HOME has one.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "orchestration.md"


def main() -> None:
    demo = Path(os.environ.get("FTPLATFORM_HOME", ROOT / ".ftplatform")) / "demo-summary.json"
    demo_seconds = json.loads(demo.read_text())["seconds"] if demo.exists() else None
    with tempfile.TemporaryDirectory() as home:
        os.environ["FTPLATFORM_HOME"] = home
        os.environ["DAGSTER_HOME"] = str(Path(home) / "dagster")
        rows = measure(Path(home))
    lines = [
        "# Fixed cost of the orchestration",
        "",
        f"{date.today()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load average at the end "
        f"{os.getloadavg()[0]:.1f}. Made by `python -m bench.orchestration`. Seconds of wall time; the machine is shared and noisy.",
        "",
        "| run | wall | payloads | everything else | payloads started |",
        "|---|---|---|---|---|",
        *(f"| {name} | {wall:.1f} | {paid:.1f} | {wall - paid:.1f} | {starts} |" for name, wall, paid, starts in rows),
    ]
    if demo_seconds is not None:
        lines += ["", f"`make demo` on the same machine, after installation: {demo_seconds:.0f} s."]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def measure(home: Path) -> list[tuple[str, float, float, int]]:
    """(run, wall seconds, payload seconds, payloads started) of each run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from platform_support import chat_rows
    from serving_support import write_base

    write_base(home / "base")
    (home / "rows.jsonl").write_text(chat_rows(200))
    recipe = {
        "name": "tiny",
        "version": 1,
        "base": "tiny",
        "training": {"learning_rate": 0.003, "max_steps": 20, "max_length": 256},
    }
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    _ft("base", "add", "tiny", "--folder", str(home / "base"))
    _ft("recipe", "add", str(home / "recipe.yaml"))
    commands = {
        "base model and its scores": ("base", "make", "tiny"),
        "data run (200 rows)": ("dataset", "push", "acme/support", str(home / "rows.jsonl"), "--run"),
        "training run": ("train", "acme/support", "tiny@1"),
        "the same training run, unchanged": ("train", "acme/support", "tiny@1"),
    }
    found = []
    for name, command in commands.items():
        before, began = _payloads(home), time.monotonic()
        _ft(*command)
        after, wall = _payloads(home), time.monotonic() - began
        found.append((name, wall, after[0] - before[0], after[1] - before[1]))
    return found


def _payloads(home: Path) -> tuple[float, int]:
    """Wall seconds of all payloads so far, from start to result, and their number."""
    starts = home / "payloads" / "starts.jsonl"
    if not starts.exists():
        return 0.0, 0
    seconds = 0.0
    lines = [json.loads(line) for line in starts.read_text().splitlines()]
    for line in lines:
        folder = home / "payloads" / f"{line['kind']}-{line['key'][:16]}" / f"{line['attempt']:04d}"
        seconds += (folder / "result.json").stat().st_mtime - line["time"]
    return seconds, len(lines)


def _ft(*arguments: str) -> None:
    subprocess.run([str(Path(sys.executable).parent / "ft"), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
