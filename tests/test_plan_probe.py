"""A probe runs a few steps of the real payload, keeps what they needed, and the next plan counts with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from platform_support import Bench, chat_rows
from serving_support import write_base
from training_support import store_in, tiny_spec
from typer.testing import CliRunner

from ftplatform import assets
from ftplatform.cli import app
from ftplatform.cli.bases import register
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import parse_recipe
from ftplatform.partitions import bases
from ftplatform.planning.calibration import CalibrationKey, envelope
from ftplatform.store.payload_io import PayloadIO


def test_a_probe_measures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    from ftplatform.training.job import train

    spec = tiny_spec(tmp_path / "w", steps=5, batch_size=2, max_steps=5).model_copy(
        update={"probe": True, "accumulation": 1}
    )
    _, store = store_in(tmp_path / "w")
    before = sorted(path.name for path in (tmp_path / "w" / "store").rglob("*") if path.is_file())
    folder = tmp_path / "payload"
    folder.mkdir()
    result = train(spec, PayloadIO(folder), store)
    assert result.outcome == "done"
    assert result.artifacts == {}
    assert result.numbers["tokens_per_second"] > 0
    assert result.numbers["peak_memory_bytes"] > 0
    assert not store.list_docs(f"checkpoints/{spec.key}")
    after = sorted(path.name for path in (tmp_path / "w" / "store").rglob("*") if path.is_file())
    assert [name for name in after if name not in before] == []


@pytest.mark.slow
def test_a_probed_plan_counts_with_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    tree = bench.parts.store.put_tree(write_base(tmp_path / "base"))
    key = register(bench.parts, "tiny", {"kind": "folder", "tree": tree})
    bench.instance.add_dynamic_partitions(bases.name or "", [str(key)])
    assert bench.run([assets.base_model], str(key)).success
    training = {"learning_rate": 0.003, "max_steps": 50, "batch_size": 4, "max_length": 256}
    common = {"version": 1, "base": "tiny", "training": training}
    bench.parts.catalog.recipes.add(parse_recipe({"name": "tiny", **common}))
    rewards = [{"type": "string_check", "reference": "billing"}]
    bench.parts.catalog.recipes.add(
        parse_recipe({"name": "policy", "method": "rloo", "rloo": {"rewards": rewards}, **common})
    )
    assert bench.data_run("acme/support", {"rows.jsonl": chat_rows(60)}).success
    monkeypatch.setattr("ftplatform.cli.plan.open_parts", lambda: bench.parts)
    result = CliRunner().invoke(app, ["plan", "acme/support", "tiny@1", "--probe", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert any("1 finished jobs and probes measured" in reason for reason in answer["reasons"])
    found = envelope(bench.parts.store, CalibrationKey(base=str(key), parameterisation="lora", length=256, gpu="cpu"))
    assert found is not None
    assert found.jobs == 1

    line = "acme/support|tiny@1"
    made = bench.run([assets.training_plan, assets.plan_probe], line)
    assert made.success, bench.failure(made)
    assert made.output_for_node("plan_probe").tokens_per_second > 0
    with pytest.raises(InvalidConfig, match="max_steps"):
        CliRunner().invoke(app, ["plan", "acme/support", "policy@1", "--probe"], catch_exceptions=False)
