"""``ft dataset check``: the row report of files on this machine, without a server and without a platform's home."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ftplatform.cli.check_output import print_json, print_report
from ftplatform.core.dataset_config import FILE_NAME, DatasetConfig, Format, parse_dataset_config
from ftplatform.core.errors import FtError, InvalidConfig
from ftplatform.data.importing.settings_file import read_settings
from ftplatform.data.language.tagging import open_tagger
from ftplatform.data.report.check import Checked, check_files
from ftplatform.data.report.fixes import FIXES, changes, require_text, write_fixed
from ftplatform.data.report.report_html import write_html
from ftplatform.data.report.unified_diff import unified_diff

ACCEPTED, REFUSED, USAGE, BROKEN = 0, 1, 2, 3
_SEVERAL_WORKERS = 32 << 20
"""Bytes from which it pays to start more processes."""
_notes = Console(stderr=True)


def check(
    files: Annotated[list[Path], typer.Argument(help="the files of the upload; a dataset.yaml among them is used")],
    format: Annotated[str, typer.Option(help="the files' format, instead of recognising it")] = "auto",
    config: Annotated[Path | None, typer.Option(help="a dataset.yaml")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    html: Annotated[Path | None, typer.Option(help="write the report as a page")] = None,
    findings: Annotated[Path | None, typer.Option(help="write every finding to this JSONL file")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="print what --fix would change, as a unified diff")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="write FILE.fixed with the automatic fixes beside every file")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="where --fix writes, for a single file")] = None,
    limit: Annotated[int, typer.Option(help="findings shown")] = 20,
    workers: Annotated[int, typer.Option(help="processes; 0 decides by the size of the files", min=0)] = 0,
) -> None:
    """Look at files before uploading them. Exit code: 0 accepted, 1 refused, 2 wrong usage, 3 the check itself failed."""
    if sum((json, diff)) > 1:
        raise typer.BadParameter("--json and --diff both write to standard output: choose one")
    if output is not None and (not fix or len([f for f in files if f.name != FILE_NAME]) != 1):
        raise typer.BadParameter("--output goes with --fix and a single file")
    data = _data(files)
    settings = _settings(files, config, format)
    targets = {path: output or path.with_name(path.name + ".fixed") for path in data} if fix else {}
    if taken := [str(target) for target in targets.values() if target.exists()]:
        raise typer.BadParameter(f"{', '.join(taken)} is already there: delete it, or name another with --output")
    try:
        if fix or diff:
            for path in data:
                require_text(path.name)
        with tempfile.TemporaryDirectory(prefix="ft-check-") as folder:
            checked = _check(data, settings, Path(folder), workers)
            if findings is not None:
                findings.write_bytes(checked.report.path.read_bytes())
            if html is not None:
                # Without --findings the complete list is gone when this command ends.
                again = (
                    str(findings)
                    if findings
                    else "ft dataset check --findings FINDINGS.jsonl " + " ".join(map(str, data))
                )
                write_html(checked.report, html, "Row report of " + ", ".join(p.name for p in data), again)
            if json:
                print_json(checked, sys.stdout.buffer)
            elif diff:
                for path in data:
                    _print_diff(path)
                _notes.print(checked.report.summary(), markup=False, highlight=False)
            else:
                print_report(checked, settings, limit, data)
        for path, target in targets.items():
            _fix(path, target, settings, workers, sys.stderr if json or diff else sys.stdout)
    except InvalidConfig as error:
        raise typer.BadParameter(str(error)) from error
    except (FtError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BROKEN) from error
    except Exception as error:
        # Python would end with 1, which here says that the data is refused.
        traceback.print_exc()
        raise typer.Exit(BROKEN) from error
    raise typer.Exit(REFUSED if checked.report.refused else ACCEPTED)


def _data(files: list[Path]) -> list[Path]:
    """The data files among ``files``, each of them there and of its own name."""
    data = [path for path in files if path.name != FILE_NAME]
    if missing := [str(path) for path in files if not path.is_file()]:
        raise typer.BadParameter(f"no such file: {', '.join(missing)}")
    if not data:
        raise typer.BadParameter(f"no data file: {FILE_NAME} alone holds settings only")
    if len({path.name for path in data}) != len(data):
        raise typer.BadParameter("two files have the same name: an upload holds a name once")
    return data


def _settings(files: list[Path], config: Path | None, format: str) -> DatasetConfig:
    given = [path for path in files if path.name == FILE_NAME] + ([config] if config else [])
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(map(str, given))}: settings come from one file")
    if format not in get_args(Format):
        raise typer.BadParameter(f"--format {format}: accepted are {', '.join(get_args(Format))}")
    try:
        value = read_settings(given[0].read_bytes(), str(given[0])) if given else None
        settings = parse_dataset_config(value, str(given[0]) if given else FILE_NAME)
        open_tagger(settings.tagging)
    except (InvalidConfig, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    return settings if format == "auto" else settings.model_copy(update={"format": format})


def _check(data: list[Path], settings: DatasetConfig, folder: Path, workers: int) -> Checked:
    size = sum(path.stat().st_size for path in data)
    processes = workers or (min(8, os.cpu_count() or 1) if size >= _SEVERAL_WORKERS else 1)
    with _bar() as bar:
        reading = bar.add_task(f"reading {size / 1e6:,.0f} MB", total=None)
        looking = bar.add_task("personal data, duplicates, languages", total=None, visible=False)

        def on_rows(total: int) -> None:
            bar.update(reading, visible=False)
            bar.update(looking, visible=True, total=total)

        return check_files(
            [(path.name, path) for path in data],
            settings,
            folder,
            workers=processes,
            on_rows=on_rows,
            progress=lambda n: bar.update(looking, advance=n),
        )


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar on standard error, gone at the end; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_notes, transient=True, disable=not _notes.is_terminal) as bar:
        yield bar


def _print_diff(path: Path) -> None:
    # Bytes that are no UTF-8 travel as surrogates and come out as they went in.
    out = sys.stdout.buffer
    for line in unified_diff(((c.old, c.new) for c in changes(path, path.name)), path.name, f"{path.name}.fixed"):
        out.write(line.encode("utf-8", "surrogateescape"))
    out.flush()


def _fix(path: Path, target: Path, settings: DatasetConfig, workers: int, out: Any) -> None:
    applied = write_fixed(path, path.name, target)
    print(f"\n{target}: " + ("nothing that can be fixed automatically" if not applied else ""), file=out)
    for name, number in applied.most_common():
        print(f"  {number:6,}  {FIXES[name]}", file=out)
    with tempfile.TemporaryDirectory(prefix="ft-check-") as folder:
        # Under its old name, which the upload will carry and by which the format is recognised.
        again = check_files([(path.name, target)], settings, Path(folder), workers=workers or 1)
        print(f"  then: {again.report.summary()}", file=out)
