"""``ft plan DATASET RECIPE`` says what ``training_plan`` decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from platform_support import Bench, chat_rows
from serving_support import write_base
from typer.testing import CliRunner

from ftplatform import assets
from ftplatform.cli import app
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig
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
    assert "base=SLUG" in plan(DATASET, "auto")[1]["refused"]
    assert "acme/other" in plan("acme/other", "tiny@1")[1]["refused"]
    with pytest.raises(InvalidConfig, match="base=SLUG"):
        CliRunner().invoke(app, ["plan", DATASET, "auto"], catch_exceptions=False)


def test_the_words_of_the_command_count_for_a_dataset_too(bench: Bench, tmp_path: Path) -> None:
    code, said = plan(DATASET, "tiny@1", "--length", "128")
    assert code == 0
    assert "of at most 128 tokens" in " ".join(said["reasons"])

    code, said = plan(DATASET, "tiny@1", "--budget", "0.0000001")
    assert (code, next(iter(said))) == (1, "refused")
    assert "the budget is 1e-07" in said["refused"]
    assert said["micro_batch"] >= 1

    assert plan(DATASET, "tiny@1", "--set", "parameterisation=prompt")[0] == 0, (
        "the deployment's engine is the embedded one"
    )
    code, said = plan(DATASET, "tiny@1", "--set", "parameterisation=prompt", "--engine", "vllm")
    assert code == 1
    assert "vLLM does not serve prompt" in said["refused"]
    _, served = plan(DATASET, "tiny@1", "--engine", "vllm")
    assert "--max-lora-rank 8" in " ".join(served["reasons"])

    for words, why in (
        (["--deadline", "3"], "--deadline chooses hardware"),
        (["--target", "quality"], "--target is for auto"),
        (["--tokens", "1e6"], "--tokens is for --model-config"),
        (["--set", "base=nobody"], "nobody"),
    ):
        code, said = plan(DATASET, "tiny@1", *words)
        assert (code, list(said)) == (1, ["refused"]), words
        assert why in said["refused"]


def test_auto_takes_the_length_from_the_rows_and_can_be_kept_as_a_recipe(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "chosen.yaml"
    code, said = plan(DATASET, "auto", "--set", "base=tiny", "--out", str(out))
    assert code == 0
    (why,) = (reason for reason in said["reasons"] if reason.startswith("Sequences of "))
    length = int(why.split()[2])
    assert "99 % of" in why
    assert f"at most {length} tokens a step" in " ".join(said["reasons"])
    assert parse_recipe(yaml.safe_load(out.read_text())).training.max_length == length
    _, asked = plan(DATASET, "auto", "--set", "base=tiny", "--set", "training.max_length=128")
    assert "at most 128 tokens a step" in " ".join(asked["reasons"])
    assert not any(reason.startswith("Sequences of ") for reason in asked["reasons"])
    assert plan(DATASET, str(out))[0] == 0
