"""Whole jobs in real processes: LoRA, a prompt on top of it, IA3; each trained, scored, registered, with its lineage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from platform_support import chat_rows
from serving_support import write_base

from ftplatform.catalog import open_catalog
from ftplatform.resources.jobs import latest_doc
from ftplatform.store import ObjectStore, open_store

PROGRAMS = Path(sys.executable).parent
TRAINING = {"learning_rate": 0.003, "max_steps": 3, "batch_size": 2, "max_length": 256, "virtual_tokens": 4}
RECIPES = {
    "lora": {},
    "stack": {"parameterisation": "prompt", "init_from": 1},
    "factors": {"parameterisation": "ia3"},
    "prefix": {"parameterisation": "prefix"},
    "wrong": {"init_from": 1, "lora": {"rank": 8}},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_jobs_of_every_parameterisation_end_with_a_scored_report(tmp_path: Path) -> None:
    home = {**os.environ, "FTPLATFORM_HOME": str(tmp_path / "home")}

    def ft(*arguments: str, program: str = "ft") -> str:
        done = subprocess.run([str(PROGRAMS / program), *arguments], env=home, capture_output=True, text=True)
        return done.stdout + done.stderr

    write_base(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(chat_rows(60))
    ft("base", "add", "tiny", "--folder", str(tmp_path / "base"))
    assert "done" in ft("base", "make", "tiny")
    for name, fields in RECIPES.items():
        recipe = {"name": name, "version": 1, "base": "tiny", "lora": {"rank": 4}, "training": TRAINING, **fields}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        assert "added" in ft("recipe", "add", str(tmp_path / f"{name}.yaml"))
    ft("dataset", "push", "acme/support", str(tmp_path / "rows.jsonl"))
    data = ("asset", "materialize", "-m", "ftplatform.definitions", "--select", "raw_dataset,curated_dataset")
    ft(*data, "--partition", "acme/support", program="dagster")
    store = open_store_of(tmp_path / "home")
    adapters: dict[str, dict[str, object]] = {}
    for name in ("lora", "stack", "factors", "prefix"):
        said = ft("train", "acme/support", f"{name}@1")
        line = f"acme/support|{name}@1"
        report = store.find_doc(latest_doc("eval_report", line))
        assert report is not None, said[-3000:]
        scores = report["manifest"]["scores"]
        assert {"base", "candidate"} <= set(scores), name
        adapters[name] = store.get_doc(latest_doc("adapter", line))["manifest"]
        assert report["manifest"]["adapter"] == adapters[name]["weights"]
    assert adapters["stack"]["parent"] == adapters["lora"]["weights"]
    assert adapters["lora"]["parent"] is None
    files = {file.path for file in store.tree(str(adapters["stack"]["weights"])).files}
    assert {"adapter_model.safetensors", "below/adapter_model.safetensors"} <= files
    refused = ft("train", "acme/support", "wrong@1")
    assert "it has rank 4 where the recipe says 8" in refused, refused[-2000:]
    states = [job["state"] for job in open_catalog(f"sqlite:///{tmp_path / 'home' / 'catalog.db'}").jobs.all()]
    assert states.count("failed") == 1
    assert set(states) <= {"promoted", "quarantined", "failed"}


def open_store_of(home: Path) -> ObjectStore:
    from ftplatform.core.payload import StoreAddress

    return open_store(StoreAddress(url=(home / "store").as_uri()))
