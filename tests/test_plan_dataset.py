"""``ft plan DATASET RECIPE`` says what ``training_plan`` decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from platform_support import Bench, chat_rows
from serving_support import write_base
from typer.testing import CliRunner

from ftplatform import assets
from ftplatform.cli import app
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import BaseKey, LineKey
from ftplatform.core.recipe import parse_recipe
from ftplatform.partitions import bases
from ftplatform.resources.jobs import latest_doc

DATASET = "acme/support"


def plan(*words: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["plan", *words, "--json"], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    source = {"kind": "folder", "tree": bench.parts.store.put_tree(write_base(tmp_path / "base"))}
    key = BaseKey("tiny", digest_json(source)[:8])
    bench.parts.catalog.bases.add(key, source)
    bench.instance.add_dynamic_partitions(bases.name or "", [str(key)])
    assert bench.run([assets.base_model], str(key)).success
    training = {"learning_rate": 0.003, "max_steps": 3, "batch_size": 2, "max_length": 256}
    recipe = {"name": "tiny", "version": 1, "base": "tiny", "lora": {"rank": 4}, "training": training}
    bench.parts.catalog.recipes.add(parse_recipe(recipe))
    assert bench.data_run(DATASET, {"rows.jsonl": chat_rows(60)}).success
    # The instance's own folders are the bench's, and opening a second one is not what is tested.
    monkeypatch.setattr("ftplatform.cli.plan.open_parts", lambda: bench.parts)
    return bench


def test_the_command_says_what_the_asset_decides_and_auto_chooses_from_the_catalogue(bench: Bench) -> None:
    code, said = plan(DATASET, "tiny@1")
    line = f"{DATASET}|tiny@1"
    assert bench.run([assets.training_plan], line).success
    made = bench.parts.store.get_doc(latest_doc("training_plan", str(LineKey.parse(line))))["manifest"]
    assert code == 0
    for name in ("micro_batch", "accumulation", "memory_gb", "hours", "price", "servable", "reasons"):
        assert said[name] == made[name], name
    assert (said["gpu"], said["gpus"], said["method"]) == ("cpu", 1, "lora")

    code, changed = plan(DATASET, "tiny@1", "--set", "training.max_length=100000")
    assert code == 1
    assert changed["micro_batch"] >= 1

    code, chosen = plan(DATASET, "auto", "--set", "base=tiny", "--length", "256")
    assert code == 0
    assert chosen["gpu"] != "cpu"
    with pytest.raises(InvalidConfig, match="base=SLUG"):
        plan(DATASET, "auto")
    with pytest.raises(NotFound, match="acme/other"):
        plan("acme/other", "tiny@1")
