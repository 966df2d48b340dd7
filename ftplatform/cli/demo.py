"""The demo: a customer's journey on this machine, from a file dropped into a folder to a promoted model that answers."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
import typer
import yaml

from ftplatform.catalog import open_catalog
from ftplatform.cli.bases import register, starter_source
from ftplatform.cli.common import add_partition, console, show
from ftplatform.cli.local_run import materialize
from ftplatform.cli.processes import Processes
from ftplatform.cli.progress import Watching, newest_progress
from ftplatform.cli.services import running
from ftplatform.core.dataset_config import HELDOUT_SUITE
from ftplatform.core.errors import Conflict, FtError, InvalidConfig
from ftplatform.core.ids import DatasetKey, LineKey
from ftplatform.core.manifests import EvalReport
from ftplatform.demo.datasets import EXAMPLE_QUESTIONS, write_good_dataset, write_poisoned_dataset
from ftplatform.partitions import recipes
from ftplatform.recipes import read_recipe, shipped
from ftplatform.resources.jobs import job_doc
from ftplatform.resources.platform import Parts
from ftplatform.settings import Settings, load_settings

GOOD = DatasetKey("acme", "support")
POISONED = DatasetKey("globex", "faq")
RECIPE, DAMAGING = "tiny-lora", "tiny-lora-too-hot"
T = TypeVar("T")
SUMMARY = "demo-summary.json"
CLAIMS = ("promoted", "refused", "quarantined", "champion_still_answers", "unchanged_recognised")
PATIENCE_SECONDS = 480.0
PROGRESS_SECONDS = 3.0


def demo(
    rows: Annotated[int, typer.Option(help="tickets in the customer's file")] = 1100,
    seed: Annotated[int, typer.Option(help="of the tickets")] = 7,
    keep: Annotated[bool, typer.Option("--keep", help="keep everything running at the end")] = False,
) -> None:
    """A whole journey in an empty home: upload, training, promotion, refusal, quarantine. About six minutes."""
    empty_home(load_settings())
    began = time.monotonic()
    summary: dict[str, Any] = {}
    with running() as (processes, urls, settings):
        facts = Journey(Parts(settings), processes, urls["serving"]).travel(rows, seed)
        summary = facts | {"seconds": round(time.monotonic() - began, 1), "urls": urls}
        (settings.home / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        show("demo", ("what", "result"), [(k, v) for k, v in summary.items() if k != "urls"])
        show("pages", ("what", "where"), urls.items())
        if keep:
            console.print("Everything keeps running; stop with Ctrl-C.")
            while True:
                processes.check()
                time.sleep(1.0)
        console.print(
            f"The services are stopped now; `ft up` (or `make up`) opens the same pages again. Summary: {settings.home / SUMMARY}"
        )
    if not summary:
        sys.exit(130)
    false = [name for name in CLAIMS if not summary[name]]
    if false:
        raise FtError(
            f"the demo did not show what it should: {', '.join(false)}; the runs in Dagster say why (`ft up`)"
        )


def empty_home(settings: Settings) -> None:
    """Clear what an earlier demo left; anything else in the home is somebody's work and stays."""
    if settings.uploads_s3:
        raise InvalidConfig("the demo drops files into a folder: unset FTPLATFORM_UPLOADS, which names S3")
    marker = settings.home / ".demo"
    if settings.home.exists() and any(settings.home.iterdir()):
        if not marker.exists():
            raise Conflict(
                f"the demo starts from an empty home and {settings.home} holds something that no demo made; "
                "set FTPLATFORM_HOME to another folder",
                retry_helps=False,
            )
        catalog = settings.home / "catalog.db"
        used = (
            {row["dataset"] for row in open_catalog(settings.catalog_url).datasets.all()} if catalog.exists() else set()
        )
        if used - {str(GOOD), str(POISONED)}:
            raise Conflict(
                f"the demo's home {settings.home} has datasets of yours by now ({', '.join(sorted(used))}), which a new demo would "
                "delete; set FTPLATFORM_HOME to another folder, or delete it yourself",
                retry_helps=False,
            )
        shutil.rmtree(settings.home)
    settings.home.mkdir(parents=True)
    marker.touch()


@dataclass
class Journey:
    parts: Parts
    processes: Processes
    serving: str

    def travel(self, rows: int, seed: int) -> dict[str, Any]:
        """Every stage in order; returns the facts."""
        question = EXAMPLE_QUESTIONS[0]
        self._say("1. A base model, built on the spot: nothing is downloaded.")
        base = register(self.parts, "starter", starter_source())
        materialize("base_job", str(base))
        for name in (RECIPE, DAMAGING):
            recipe = read_recipe(shipped()[name])
            self.parts.catalog.recipes.add(recipe)
            add_partition(recipes, str(recipe.key))
        good = read_recipe(shipped()[RECIPE]).key
        self.processes.wait_ready()
        before, _ = self._ask("starter", question)

        self._say(f"2. A customer drops {rows} tickets into {self.parts.settings.uploads / str(GOOD)}.")
        folder = self._drop(GOOD, lambda path: write_good_dataset(path, rows=rows, seed=seed), train_with=[str(good)])
        upload = self._until("the upload is judged", lambda: self._judged(GOOD))
        if upload["state"] != "accepted":
            raise FtError(f"the good upload was {upload['state']}: {upload['message']}")
        line = LineKey(GOOD, good)
        job = self._until(
            "the job sensor queues the training", lambda: next(iter(self.parts.catalog.jobs.all(line)), None)
        )
        promoted = self._finished(job["job"])
        report = self._report(job["job"])
        after, served = self._until("the server routes to the new model", lambda: self._answer(question))

        self._say("3. Another customer drops a poisoned file; an engineer tries a learning rate that is far too high.")
        self._drop(POISONED, lambda path: write_poisoned_dataset(path, rows=rows, seed=seed), train_with=[])
        hot = LineKey(GOOD, read_recipe(shipped()[DAMAGING]).key)
        damaged = self.parts.catalog.jobs.submit(hot, "submitted")
        refused = self._until("the poisoned upload is judged", lambda: self._judged(POISONED))
        console.print(f"   {refused['message']}", highlight=False, markup=False)
        quarantined = self._finished(damaged)
        why = self._report(damaged).reasons[0]
        still, still_served = self._ask(GOOD.registered_model, question)

        self._say("4. The same rows again: recognised, nothing is worked twice.")
        starts = self._starts()
        for path in folder.iterdir():
            path.touch()
        again = self.parts.catalog.jobs.submit(line, "submitted")
        repeated = self._finished(again)
        unchanged = self._starts() == starts and len(self.parts.catalog.datasets.list_uploads(GOOD)) == 1

        return {
            "promoted": promoted["state"] == "promoted",
            "refused": refused["state"] == "refused",
            "quarantined": quarantined["state"] == "quarantined",
            "quarantine_reason": why,
            "champion_still_answers": (still, still_served) == (after, served),
            "unchanged_recognised": unchanged and repeated["state"] == "promoted",
            "rows": sum(report_rows(self.parts, GOOD).values()),
            "base_score": round(report.scores["base"][HELDOUT_SUITE].score, 4),
            "tuned_score": round(report.scores["candidate"][HELDOUT_SUITE].score, 4),
            "question": question,
            "answer_before": before,
            "answer_after": after,
            "answered_by": served,
        }

    def _say(self, text: str) -> None:
        self._began = time.monotonic()
        console.print(f"\n[bold]{text}[/bold]")

    def _drop(self, key: DatasetKey, write: Callable[[Path], object], train_with: list[str]) -> Path:
        """Write beside the uploads folder, then move in: a customer's copy in progress has another name too."""
        folder, staging = self.parts.settings.uploads / str(key), self.parts.settings.home / "staging"
        staging.mkdir()
        write(staging)
        (staging / "dataset.yaml").write_text(yaml.safe_dump({"train_with": train_with}), encoding="utf-8")
        folder.mkdir(parents=True)
        for path in sorted(staging.iterdir()):
            path.rename(folder / path.name)
        staging.rmdir()
        return folder

    def _judged(self, key: DatasetKey) -> dict[str, Any] | None:
        uploads = self.parts.catalog.datasets.list_uploads(key)
        return uploads[-1] if uploads and uploads[-1]["state"] != "pending" else None

    def _finished(self, job: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            row = self.parts.catalog.jobs.get(job)
            return None if row["state"] in ("queued", "running") else row

        row = self._until(f"job {job} ends", ended)
        console.print(f"   {row['state']}: {row['message']}", highlight=False)
        if row["state"] not in ("promoted", "quarantined"):
            raise FtError(f"job {job} ended {row['state']}: {row['message']}")
        return row

    def _report(self, job: str) -> EvalReport:
        return EvalReport.model_validate(self.parts.store.get_doc(job_doc(job, "eval_report"))["manifest"])

    def _ask(self, model: str, question: str) -> tuple[str, str]:
        """(answer, immutable name of the model that gave it)."""
        body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 32, "temperature": 0}
        reply = httpx.post(f"{self.serving}/v1/chat/completions", json=body, timeout=60.0, trust_env=False)
        if reply.status_code != 200:
            raise FtError(f"asking {model}: {reply.status_code} {reply.text}")
        answer = reply.json()
        return answer["choices"][0]["message"]["content"], answer["model"]

    def _answer(self, question: str) -> tuple[str, str] | None:
        try:
            return self._ask(GOOD.registered_model, question)
        except FtError:
            return None

    def _starts(self) -> int:
        path = self.parts.settings.home / "payloads" / "starts.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _until(self, what: str, look: Callable[[], T | None]) -> T:
        """Wait for ``look`` to give something, telling meanwhile what the newest payload says: by a bar, and every few seconds
        in a line.
        """
        payloads = self.parts.settings.home / "payloads"
        deadline, told, spoke = time.monotonic() + PATIENCE_SECONDS, newest_progress(payloads), 0.0
        console.print(f"   waiting until {what}")
        with Watching(console, payloads) as terminal:
            while (found := look()) is None:
                self.processes.check()
                if time.monotonic() > deadline:
                    raise FtError(
                        f"{what}: did not happen within {PATIENCE_SECONDS:.0f} s; see {self.parts.settings.home / 'logs'}"
                    )
                line = newest_progress(payloads)
                if line and line != told and time.monotonic() - spoke >= PROGRESS_SECONDS:
                    seconds = time.monotonic() - self._began
                    terminal.console.print(
                        f"   {seconds:5.0f} s  {line['kind']}: {line['message']}", highlight=False, markup=False
                    )
                    told, spoke = line, time.monotonic()
                time.sleep(0.5)
        return found


def report_rows(parts: Parts, key: DatasetKey) -> dict[str, int]:
    """Rows per split of the dataset's latest version."""
    rows: dict[str, int] = parts.store.get_doc(f"latest/curated_dataset/{key}")["manifest"]["rows"]
    return rows
