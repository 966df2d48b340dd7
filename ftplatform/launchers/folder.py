"""What an attempt's folder tells: its process, its newest progress, its allowed silence, its result, its log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ftplatform.core.payload import HEARTBEAT_FILE, PROGRESS_FILE, RESULT_FILE, OutcomeName, PayloadResult, stacks_file
from ftplatform.launchers.base import Handle
from ftplatform.launchers.processes import Process, parse_stat

LOG_FILE = "log.txt"
PROCESS_FILE = "process"


def leader(handle: Handle) -> Process | None:
    path = handle.folder / PROCESS_FILE
    return parse_stat(path.read_text()) if path.exists() else None


def read_result(handle: Handle) -> PayloadResult | None:
    """The payload's result; where rank 0 only saw its peers go, what the rank that failed first says is taken
    instead.
    """
    path = handle.folder / RESULT_FILE
    if not path.exists():
        return None
    result = PayloadResult.model_validate_json(path.read_text())
    if result.outcome in ("failed", "preempted"):
        for report in sorted(handle.folder.glob("error-rank*.txt")):
            text = report.read_text()
            if text.startswith("out_of_memory: "):
                return result.model_copy(
                    update={"outcome": "out_of_memory", "message": f"{report.stem}: {text.strip()}"}
                )
    return result


def last_progress(folder: Path) -> dict[str, Any]:
    """The newest whole line; the one being written has no line break yet."""
    path = folder / PROGRESS_FILE
    if not path.exists():
        return {}
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 8192))
        lines = stream.read().split(b"\n")[:-1]
    newest: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return newest


def announced_silence(folder: Path) -> float:
    """Seconds the payload said it may be silent; 0 while it is writing the file, which is a sign of life itself."""
    return float((folder / HEARTBEAT_FILE).read_text().strip() or 0)


def read_log(folder: Path, last: int | None = None) -> str:
    """Standard output and error; the ``last`` lines or all."""
    path = folder / LOG_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return text if last is None else "\n".join(text.splitlines()[-last:])


def append_stacks(folder: Path) -> None:
    """Put the stacks that the ranks wrote to the log, where people look."""
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        for path in sorted(folder.glob(stacks_file(0).replace("0", "*"))):
            if text := path.read_text(encoding="utf-8", errors="replace"):
                log.write(f"{path.stem}:\n{text}\n")


def told_steps(folder: Path) -> tuple[int, int] | None:
    """The first and the newest step that the payload told; None where it told none."""
    path = folder / PROGRESS_FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    steps = [line["step"] for line in map(json.loads, lines) if "step" in line]
    return (steps[0], steps[-1]) if steps else None


def write_failure(handle: Handle, why: str, outcome: OutcomeName = "failed") -> PayloadResult:
    """Put down how it ended, so that everybody who asks hears the same; only for a payload that is proven dead.

    On a disk too full for that, whoever asks is told and the next one finds it out again.
    """
    tail = read_log(handle.folder, last=12)
    message = f"attempt {handle.attempt}: {why}; a retry helps. Last log lines:\n{tail}"
    began, reached = told_steps(handle.folder) or (0, None)
    numbers = {} if reached is None else {"steps": float(reached)}
    result = PayloadResult(outcome=outcome, message=message, resumed_from=began, numbers=numbers)
    temporary = handle.folder / f"{RESULT_FILE}.launcher"
    try:
        temporary.write_text(result.model_dump_json(indent=1))
        os.replace(temporary, handle.folder / RESULT_FILE)
    except OSError as error:
        return result.model_copy(update={"message": f"{message}\nand that could not be written down: {error}"})
    return result
