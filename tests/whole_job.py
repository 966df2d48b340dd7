"""A whole job without a daemon, by `ft` and `dagster asset materialize`, and once more by `ft train`: base model, recipe, data, training, evaluation, registry, deployment.

python whole_job.py BASE_FOLDER RECIPE_FILE ROWS_FILE
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ftplatform.catalog import open_catalog
from ftplatform.settings import load_settings

PROGRAMS = Path(sys.executable).parent
LINE = "training_plan,tokenized_shards,adapter,eval_report,registry_entry,deployment"


def main() -> None:
    base, recipe, rows = sys.argv[1:]
    ft("base", "add", "tiny", "--folder", base)
    ft("recipe", "add", recipe)
    ft("dataset", "push", "acme/support", rows)
    catalog = open_catalog(load_settings().catalog_url)
    materialize("base_model,base_model_scores", str(catalog.bases.newest("tiny")))
    materialize("raw_dataset,curated_dataset", "acme/support")
    materialize(LINE, "acme/support|tiny@1")
    ft("train", "acme/support", "tiny@1")
    states = [job["state"] for job in catalog.jobs.all()]
    assert len(states) == 2, states
    assert set(states) <= {"promoted", "quarantined"}, states
    print(f"whole job: {states[0]}")


def ft(*arguments: str) -> None:
    subprocess.run([str(PROGRAMS / "ft"), *arguments], check=True)


def materialize(assets: str, partition: str) -> None:
    """By Dagster's own command, which runs in its caller: no daemon, no webserver."""
    command = ["asset", "materialize", "-m", "ftplatform.definitions", "--select", assets, "--partition", partition]
    subprocess.run([str(PROGRAMS / "dagster"), *command], check=True)


if __name__ == "__main__":
    main()
