"""The whole curation of an upload against what TRL needs to tokenize and pack the same rows, and how it grows.

    python -m bench.data.curation [--rows 200000] [--scale 10000,50000,200000,1000000] [--out bench/results]

Curation is everything between the customer's file and the curated splits: import and row report, Unicode, personal data,
language, exact and near duplicates, contamination, split, writing, and reading the result again for the checks. Both sides
have two processes and run in a program of their own. Memory is the largest sum of the proportional set sizes (shared pages
divided) of the program and its children, sampled twice a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.data.tokenize import PROCESSES, _cpu, chats, make


def write_upload(path: Path, rows: int) -> None:
    """OpenAI chat rows as a customer sends them; one in forty carries personal data, one in a hundred repeats another."""
    with path.open("w") as stream:
        last = ""
        for number, turns in enumerate(chats(rows)):
            if number % 40 == 7:
                turns[-2]["content"] += (
                    f" Write to customer{number}@example.com or call +1 212 555 {number % 10000:04d}."
                )
            line = last if number % 100 == 99 else json.dumps({"messages": turns})
            stream.write(line + "\n")
            last = line


def curated(folder: Path, upload: Path) -> dict[str, float]:
    from ftplatform.core.dataset_config import DatasetConfig
    from ftplatform.data.curation.curate import Accepted, Surroundings, curate
    from ftplatform.data.importing.ingest import ingest
    from ftplatform.evaluation.suite_files import prompts_by_suite

    begun = time.perf_counter()
    found = ingest([("rows.jsonl", upload)], DatasetConfig(), folder / "raw", workers=PROCESSES)
    imported = time.perf_counter() - begun
    accepted = Accepted(found.canonical, found.validation, found.test)
    around = Surroundings(prompts_by_suite())
    result = curate(accepted, DatasetConfig(), around, folder / "work", workers=PROCESSES)
    assert not [check for check in result.checks if check.blocks]
    return {"rows": sum(result.rows.values()), "import": imported}


def _proportional(pid: int) -> int:
    """Bytes of a process and all below it."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(_proportional(int(child)) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return total  # it ended while we looked
    return total


def _watched(process: subprocess.Popen[bytes]) -> list[int]:
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], _proportional(process.pid))
            time.sleep(0.5)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return peak


def run(contender: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.data.curation", "--one", contender, "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peak = _watched(process)
    output = process.communicate()[0].decode()
    if process.returncode:
        raise SystemExit(f"{contender} ended with {process.returncode}")
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found | {"anonymous_mb": peak[0] / 2**20}


def _one(contender: str, folder: Path) -> None:
    if contender == "ours":
        upload = folder / "upload.jsonl"
        cpu, wall = _cpu(), time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            told = curated(Path(scratch), upload)
        wall = time.perf_counter() - wall
        from loky import get_reusable_executor

        # Its processes' time counts once they have ended.
        get_reusable_executor().shutdown(wait=True)
    else:
        from bench.data.tokenize import CONTENDERS

        work = CONTENDERS["trl"](folder)
        cpu, wall = _cpu(), time.perf_counter()
        told = {"tokens": work()}
        wall = time.perf_counter() - wall
    print(json.dumps({"wall": wall, "cpu": _cpu() - cpu, **told}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--scale", default="10000,50000,200000,1000000")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.one:
        _one(options.one, options.folder)
        return
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.rows:
            make(folder, options.rows)
            write_upload(folder / "upload.jsonl", options.rows)
            pair = {one: run(one, folder) for one in ("ours", "trl")}
            ratio = {unit: pair["trl"][unit] / pair["ours"][unit] for unit in ("wall", "cpu")}
            report["against_trl"] = {"rows": options.rows, **pair, "trl_over_ours": ratio}
            print(json.dumps(report["against_trl"], indent=1), flush=True)
        scale = []
        for rows in (int(one) for one in options.scale.split(",") if one):
            write_upload(folder / "upload.jsonl", rows)
            size = (folder / "upload.jsonl").stat().st_size
            scale.append({"upload_rows": rows, "upload_mb": size / 2**20, **run("ours", folder)})
            print(json.dumps(scale[-1]), flush=True)
        report["scale"] = scale
    if options.out:
        (options.out / "data_curation.json").write_text(json.dumps(report, indent=1) + "\n")
        draw(scale, options.out / "data_curation.png")


def draw(scale: list[dict[str, float]], target: Path) -> None:
    """Seconds and memory over rows, both axes logarithmic: linear growth is a straight line of slope one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [one["upload_rows"] for one in scale]
    left.loglog(rows, [one["cpu"] for one in scale], "o-", label="CPU seconds")
    left.loglog(rows, [one["wall"] for one in scale], "s--", label="wall seconds")
    left.loglog(rows, [scale[-1]["cpu"] * n / rows[-1] for n in rows], ":", color="#9aa5b1", label="linear")
    left.set(xlabel="rows", title="time")
    left.legend()
    right.semilogx(rows, [one["anonymous_mb"] for one in scale], "o-")
    right.set(xlabel="rows", title="peak anonymous memory, all processes (MB)", ylim=(0, None))
    FigureCanvasAgg(figure).print_png(target)


if __name__ == "__main__":
    main()
