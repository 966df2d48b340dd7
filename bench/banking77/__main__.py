"""The whole bench: data run, base model, two trainings, the comparison, the page."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.banking77.baseline import score_baseline
from bench.banking77.report import as_markdown
from bench.banking77.stages import Stages
from ftplatform.cli import bases, datasets, jobs, recipes
from ftplatform.cli.common import open_parts
from ftplatform.cli.local_run import materialize
from ftplatform.core.dataset_config import HELDOUT_SUITE
from ftplatform.core.ids import DatasetKey, LineKey, RecipeKey
from ftplatform.core.manifests import BaseModel, CuratedDataset, EvalReport
from ftplatform.core.rows import Row, rows_from_jsonl
from ftplatform.resources.jobs import job_doc, latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.settings import PROJECT

HERE = Path(__file__).parent
DATA = PROJECT.parent / "shared" / "data"
FILES = ("banking77_train.csv", "banking77_test.csv")
DATASET = DatasetKey("bench", "banking77")
RECIPES = {"full": "banking77-full@1", "lora": "banking77-lora@1"}
BASE, BASE_STEPS = "banking", 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with {' and '.join(FILES)}")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of every payload")
    parser.add_argument("--home", type=Path, help="keep the platform's home here; a temporary one when left out")
    parser.add_argument("--results", type=Path, default=PROJECT / "bench" / "results")
    given = parser.parse_args()
    missing = [str(given.data / name) for name in FILES if not (given.data / name).is_file()]
    if missing:
        print(f"bench skipped: {' and '.join(missing)} not found; --data names the folder that holds them")
        return
    with tempfile.TemporaryDirectory(prefix="banking77-") as folder:
        use_home(given.home or Path(folder), given.threads)
        facts = measure(given.data, Path(folder), given.threads)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "banking77.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (given.results / "banking77.md").write_text(as_markdown(facts), encoding="utf-8")
    print(as_markdown(facts))


def use_home(home: Path, threads: int) -> None:
    """Point the platform at a home of the bench's own, whatever the caller's environment says."""
    for name in [name for name in os.environ if name.startswith("FTPLATFORM_")]:
        del os.environ[name]
    os.environ |= {
        "FTPLATFORM_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "FTPLATFORM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def measure(data: Path, scratch: Path, threads: int) -> dict[str, Any]:
    """Run everything and return the facts of ``banking77.json``."""
    stages, load_before = Stages(), os.getloadavg()[0]
    with stages.stage("data run"):
        datasets.push(str(DATASET), [*(data / name for name in FILES), HERE / "dataset.yaml"], run=True)
    parts = open_parts()
    curated = CuratedDataset.model_validate(_latest(parts, "curated_dataset", str(DATASET)))
    rows = {split: _rows(parts, curated, split) for split in ("train", "test")}
    with stages.stage("base model: tokenizer and pre-training"):
        made = scratch / "base"
        subprocess.run(base_command(parts.store.path(curated.splits["train"]), made, threads), check=True, cwd=PROJECT)
    with stages.stage("base model: registered and scored on the platform's suites"):
        bases.add(BASE, folder=made)
        base_key = str(parts.catalog.bases.newest(BASE))
        materialize("base_job", base_key)
    for recipe in RECIPES.values():
        with stages.stage(f"training run: {recipe}"):
            recipes.add(str(HERE / f"{RecipeKey.parse(recipe).slug}.yaml"))
            jobs.train(str(DATASET), recipe)
    with stages.stage("TF-IDF + logistic regression"):
        tfidf = score_baseline(rows["train"], rows["test"])

    done = {name: _job(parts, LineKey(DATASET, RecipeKey.parse(recipe))) for name, recipe in RECIPES.items()}
    reports = {name: report for name, (report, _) in done.items()}
    base = BaseModel.model_validate(_latest(parts, "base_model", base_key))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "train_rows": len(rows["train"]),
        "test_rows": reports["full"].scores["candidate"][HELDOUT_SUITE].n,
        "removed": dict(curated.removed),
        "pii": dict(curated.pii),
        "base": {"parameters": base.parameters, "vocabulary": base.vocabulary, "steps": BASE_STEPS},
        "exact_match": {
            **{name: report.scores["candidate"][HELDOUT_SUITE].score for name, report in reports.items()},
            "tfidf": tfidf,
            "base": reports["full"].scores["base"][HELDOUT_SUITE].score,
        },
        "gate": {name: report.verdict for name, report in reports.items()},
        "reasons": {name: list(report.reasons) for name, report in reports.items()},
        "training": {name: numbers for name, (_, numbers) in done.items()},
        "stages": stages.as_json(),
    }


def base_command(train: Path, out: Path, threads: int) -> list[str]:
    """A process of its own that is given the curated train rows and no other file."""
    program = [sys.executable, "-m", "bench.banking77.base", str(train), str(out)]
    return [*program, "--steps", str(BASE_STEPS), "--threads", str(threads)]


def _latest(parts: Parts, asset: str, partition: str) -> Any:
    return parts.store.get_doc(latest_doc(asset, partition))["manifest"]


def _rows(parts: Parts, curated: CuratedDataset, split: str) -> list[Row]:
    return rows_from_jsonl(parts.store.get_bytes(curated.splits[split]))


def _job(parts: Parts, line: LineKey) -> tuple[EvalReport, dict[str, float]]:
    """The evaluation report of the line's job and the figures of its training payload."""
    job = parts.catalog.jobs.all(line)[0]["job"]
    training = [attempt for attempt in parts.catalog.jobs.attempts(job) if attempt["stage"] == "training"]
    report = EvalReport.model_validate(parts.store.get_doc(job_doc(job, "eval_report"))["manifest"])
    return report, training[-1]["numbers"]


if __name__ == "__main__":
    main()
