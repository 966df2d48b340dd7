"""What the payloads of this home are doing, for a terminal: a bar with the time left, or plain lines where it is none."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ftplatform.core.durations import in_words
from ftplatform.core.payload import PROGRESS_FILE, RESULT_FILE, SPEC_FILE
from ftplatform.launchers.folder import last_progress
from ftplatform.resources.console import print_to

_LOOK_SECONDS = 0.5
_FRESH_SECONDS = 600.0
"""A payload that has said nothing for so long is none to show."""


def newest_progress(root: Path, since: float = 0.0) -> dict[str, Any] | None:
    """The last progress line of the running payload that wrote to its file last, with its ``kind``; None where none has since
    ``since``.
    """
    running = (path for path in root.glob(f"*/*/{PROGRESS_FILE}") if not path.with_name(RESULT_FILE).exists())
    files = [(path.stat().st_mtime, path) for path in running]
    changed, path = max(files, default=(0.0, root))
    line = last_progress(path.parent) if files and changed >= since else {}
    return {**line, "kind": path.parent.parent.name.partition("-")[0]} if line else None


def progress_of(root: Path, job: str) -> str | None:
    """What the running training of ``job`` said last; None where no attempt of it runs on this machine."""
    for spec in root.glob(f"train-*/*/{SPEC_FILE}"):
        tracking = json.loads(spec.read_text()).get("tracking") or {}
        if tracking.get("tags", {}).get("ft.job") == job and not (spec.parent / RESULT_FILE).exists():
            line = last_progress(spec.parent)
            if line and time.time() - line["time"] < _FRESH_SECONDS:
                return str(line["message"])
    return None


class Watching:
    """While entered, the newest progress of the payloads below ``root`` stands at the foot of the terminal, above it the lines of
    runs and what is printed to ``console``. Without a terminal nothing is drawn: the run's log has the same lines.
    """

    def __init__(self, console: Console, root: Path) -> None:
        self.console, self._root = _uncaptured(console), root
        self._line: dict[str, Any] | None = None
        self._since, self._done = time.time(), threading.Event()
        self._live = Live(
            console=self.console, get_renderable=self._view, refresh_per_second=2, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._look, daemon=True, name="progress")

    def __enter__(self) -> Watching:
        if self.console.is_terminal:
            print_to(lambda text: self.console.print(text, markup=False, highlight=False, soft_wrap=True))
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self.console.is_terminal:
            print_to(None)
            self._thread.join()
            self._live.stop()

    def _look(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            self._line = newest_progress(self._root, self._since)

    def _view(self) -> Text | Table:
        return bar(self._line) if self._line else Text("")


def _uncaptured(console: Console) -> Console:
    """The same terminal through a handle of its own: Dagster captures the process's own ones while a step runs."""
    if not console.is_terminal:
        return console
    try:
        file = os.fdopen(os.dup(console.file.fileno()), "w", encoding="utf-8")
    except io.UnsupportedOperation:
        return console
    return Console(file=file, width=console.width, force_terminal=True)


def bar(line: dict[str, Any]) -> Text | Table:
    """``train  ━━━━━━  40/120  loss 1.2346  5,120 tokens/s  MFU 31 %  4 min left`` of a line that counts steps; else its message."""
    if line.get("step", 0) >= line.get("of", 0):
        return Text(f"{line['kind']}: {line['message']}", style="dim", overflow="ellipsis", no_wrap=True)
    cells: list[ConsoleRenderable] = [
        Text(line["kind"], style="bold"),
        ProgressBar(total=line["of"], completed=line["step"], width=24),
        Text(f"{line['step']}/{line['of']}"),
    ]
    if "loss" in line:
        cells.append(Text(f"loss {line['loss']:.4f}"))
    if "tokens_per_second" in line:
        cells.append(Text(f"{line['tokens_per_second']:,.0f} tokens/s"))
    if "mfu" in line:
        cells.append(Text(f"MFU {100 * line['mfu']:.{0 if line['mfu'] >= 0.1 else 1}f} %"))
    if "eta_seconds" in line:
        # Counted down between two lines.
        left = max(0.0, line["eta_seconds"] - (time.time() - line["time"]))
        cells.append(Text(f"{in_words(left)} left", style="cyan"))
    table = Table.grid(padding=(0, 2))
    table.add_row(*cells)
    return table
