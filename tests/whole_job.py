"""A whole job by the command line alone: base model, recipe, data, training, evaluation, registry, deployment.

python whole_job.py BASE_FOLDER RECIPE_FILE ROWS_FILE
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ftplatform.catalog import open_catalog
from ftplatform.settings import load_settings


def main() -> None:
    base, recipe, rows = sys.argv[1:]
    ft = str(Path(sys.executable).parent / "ft")
    for command in (
        ["base", "add", "tiny", "--folder", base],
        ["base", "make", "tiny"],
        ["recipe", "add", recipe],
        ["dataset", "push", "acme/support", rows, "--run"],
        ["train", "acme/support", "tiny@1"],
    ):
        subprocess.run([ft, *command], check=True)
    (job,) = open_catalog(load_settings().catalog_url).jobs.all()
    assert job["state"] in ("promoted", "quarantined"), job
    print(f"whole job: {job['state']}")


if __name__ == "__main__":
    main()
