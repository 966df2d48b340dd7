"""The training run through the real assets and payloads, on a tiny random base model: what is worked, and how often."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from platform_support import Bench, chat_rows
from serving_support import write_base

from ftplatform import assets
from ftplatform.cli.bases import register
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import NotFound
from ftplatform.core.ids import BaseKey, LineKey
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.partitions import bases
from ftplatform.resources.jobs import JOB_TAG, job_doc, latest_doc

DATASET = "acme/support"
UNASKED: dict[str, bytes | str] = {"dataset.yaml": "check_base: false\n"}
"""A scoring payload less; tests/test_baseline.py asks the base."""


def _recipe(version: int = 1, **training: Any) -> Recipe:
    settings = {"learning_rate": 0.003, "max_steps": 3, "batch_size": 2, "max_length": 256, **training}
    return parse_recipe({"name": "tiny", "version": version, "base": "tiny", "lora": {"rank": 4}, "training": settings})


def _add_base(bench: Bench, folder: Path) -> str:
    source = {"kind": "folder", "tree": bench.parts.store.put_tree(folder)}
    key = BaseKey("tiny", digest_json(source)[:8])
    bench.parts.catalog.bases.add(key, source)
    bench.instance.add_dynamic_partitions(bases.name or "", [str(key)])
    return str(key)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Data and base are there, nothing is trained."""
    bench = Bench()
    key = _add_base(bench, write_base(tmp_path / "base"))
    assert bench.run([assets.base_model], key).success
    bench.parts.catalog.recipes.add(_recipe())
    assert bench.data_run(DATASET, {"rows.jsonl": chat_rows(60), **UNASKED}).success
    return bench


def _train(bench: Bench, version: int = 1) -> dg.ExecuteInProcessResult:
    result = bench.run(assets.LINE, f"{DATASET}|tiny@{version}")
    assert result.success, bench.failure(result)
    return result


def _starts(bench: Bench) -> dict[str, int]:
    path = bench.parts.settings.home / "payloads" / "starts.jsonl"
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()] if path.exists() else []
    return {kind: kinds.count(kind) for kind in ("train", "evaluate")}


def _reused(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    found = {}
    for event in result.get_asset_materialization_events():
        metadata = event.step_materialization_data.materialization.metadata
        if "reused" in metadata:
            found[event.asset_key.path[-1]] = bool(metadata["reused"].value)
    return found


def test_exactly_the_affected_stages_are_worked_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _train(bench)
    assert _reused(first) == {"tokenized_shards": False, "adapter": False, "eval_report": False}
    assert _starts(bench) == {"train": 1, "evaluate": 1}

    again = _train(bench)
    assert _reused(again) == {"tokenized_shards": True, "adapter": True, "eval_report": True}
    assert _starts(bench) == {"train": 1, "evaluate": 1}, "unchanged: no payload is started"
    assert again.output_for_node("adapter") == first.output_for_node("adapter")
    assert again.output_for_node("registry_entry").version == first.output_for_node("registry_entry").version
    assert {job["state"] for job in bench.jobs.all()} == {"quarantined"}, "a random model cannot be promoted"
    assert bench.run([assets.eval_report], f"{DATASET}|tiny@1").success
    assert {job["state"] for job in bench.jobs.all()} == {"quarantined"}, "an asset made again is no new training"

    bench.parts.catalog.recipes.add(_recipe(2, learning_rate=0.004))
    other_recipe = _train(bench, 2)
    assert _reused(other_recipe) == {"tokenized_shards": True, "adapter": False, "eval_report": False}
    assert _starts(bench) == {"train": 2, "evaluate": 2}

    # Code of the training alone: the same weights come out, so their scores are known already.
    with monkeypatch.context() as patch:
        # By module: the package's attribute of this name is the asset.
        patch.setattr(sys.modules["ftplatform.assets.adapter"], "code_digest", lambda *parts: "other code")
        other_code = _train(bench)
    assert _reused(other_code) == {"tokenized_shards": True, "adapter": False, "eval_report": True}
    assert _starts(bench) == {"train": 3, "evaluate": 2}
    assert other_code.output_for_node("adapter").weights == first.output_for_node("adapter").weights

    # A row that is trained on before and after: a held-out one that moved into training would be taken out again.
    changed = chat_rows(60).replace("Ticket number 8: a question", "Ticket number 8: an urgent matter")
    assert bench.data_run(DATASET, {"rows.jsonl": changed, **UNASKED}).success
    other_data = _train(bench)
    assert _reused(other_data) == {"tokenized_shards": False, "adapter": False, "eval_report": False}
    assert _starts(bench) == {"train": 4, "evaluate": 3}

    key = _add_base(bench, write_base(tmp_path / "other-base", seed=1))
    assert bench.run([assets.base_model], key).success
    other_base = _train(bench)
    assert _reused(other_base) == {"tokenized_shards": False, "adapter": False, "eval_report": False}
    assert _starts(bench) == {"train": 5, "evaluate": 4}


def test_a_base_whose_template_drops_answers_is_refused(bench: Bench, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "mute")
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}{{ eos_token }}"
    (folder / "chat_template.jinja").write_text(template)
    key = _add_base(bench, folder)
    result = bench.run([assets.base_model], key)
    assert not result.success
    assert "template_" in bench.failure(result)
    assert bench.check("base_model", "chat_template", key) == "FAILED"


@pytest.mark.slow
def test_preferences_are_learned_and_judged_by_the_platforms_suites(bench: Bench) -> None:
    def pair(number: int) -> dict[str, Any]:
        ask = f"Ticket number {number}: how do I reach garden {number * 7919}?"
        return {"prompt": ask, "chosen": f"Take lane {number}.", "rejected": f"I do not know {number}."}

    pairs = "".join(json.dumps(pair(number)) + "\n" for number in range(40))
    assert bench.data_run("acme/taste", {"rows.jsonl": pairs}).success
    recipe = _recipe().model_dump(mode="json") | {"name": "tiny-dpo", "method": "dpo"}
    bench.parts.catalog.recipes.add(parse_recipe(recipe))
    result = bench.run(assets.LINE, "acme/taste|tiny-dpo@1")
    assert result.success, bench.failure(result)
    assert result.output_for_node("tokenized_shards").layout == "preference"
    suites = [suite.name for suite in result.output_for_node("training_plan").suites]
    assert suites == ["instruction", "safety", "capability"]
    assert bench.check("training_plan", "heldout_asked", "acme/taste|tiny-dpo@1") == "FAILED"
    report = result.output_for_node("eval_report")
    assert {comparison.suite for comparison in report.comparisons} == set(suites)
    assert result.output_for_node("registry_entry").adapter == result.output_for_node("adapter").weights


def test_two_jobs_of_a_line_never_mix(bench: Bench) -> None:
    """A run that starts further down works for the job in its tag, not for the newest plan."""
    line = f"{DATASET}|tiny@1"
    jobs = []
    for rows in (60, 61):
        assert bench.data_run(DATASET, {"rows.jsonl": chat_rows(rows)}).success
        result = bench.run([assets.training_plan, assets.tokenized_shards], line)
        assert result.success
        jobs.append(bench.instance.get_run_by_id(result.run_id).tags[JOB_TAG])
    older = bench.run([assets.tokenized_shards], line, {JOB_TAG: jobs[0]})
    newest = bench.parts.store.get_doc(job_doc(jobs[1], "tokenized_shards"))["manifest"]
    assert older.output_for_node("tokenized_shards").model_dump(mode="json") != newest
    untagged = bench.run([assets.tokenized_shards], line)
    assert bench.instance.get_run_by_id(untagged.run_id).tags[JOB_TAG] == jobs[1], "pinned to the latest plan's job"


def test_one_job_of_a_line_at_a_time(bench: Bench) -> None:
    line = LineKey.parse(f"{DATASET}|tiny@1")
    bench.parts.catalog.leases.acquire(f"line:{line}", "ftjob-other", 60)
    result = bench.run([assets.training_plan], str(line))
    assert not result.success
    assert "ftjob-other" in bench.failure(result)
    assert bench.jobs.all()[0]["state"] == "failed"
    bench.parts.catalog.leases.release(f"line:{line}", "ftjob-other")
    assert bench.run([assets.training_plan], str(line)).success


def test_a_missing_base_model_is_said_before_anything_is_spent(bench: Bench) -> None:
    bench.parts.catalog.recipes.add(_recipe().model_copy(update={"base": "nowhere", "version": 5}))
    message = bench.failure(bench.run(assets.LINE, f"{DATASET}|tiny@5"))
    assert "nowhere" in message
    assert "tiny" in message, "the known ones are named"
    assert _starts(bench) == {"train": 0, "evaluate": 0}


def test_a_base_model_that_was_never_made_is_said(bench: Bench) -> None:
    source = {"kind": "folder", "tree": "0" * 64}
    bench.parts.catalog.bases.add(BaseKey("unmade", digest_json(source)[:8]), source)
    bench.parts.catalog.recipes.add(_recipe().model_copy(update={"base": "unmade", "version": 5}))
    assert "materialize base_model" in bench.failure(bench.run(assets.LINE, f"{DATASET}|tiny@5"))


def test_a_plan_that_cannot_work_is_refused(bench: Bench) -> None:
    bench.parts.catalog.recipes.add(_recipe(3, max_length=100_000))
    assert "above the base model's" in bench.failure(bench.run(assets.LINE, f"{DATASET}|tiny@3"))
    assert bench.check("training_plan", "consistent", f"{DATASET}|tiny@3") == "FAILED"


def test_a_cancelled_job_does_not_train(bench: Bench) -> None:
    line = LineKey.parse(f"{DATASET}|tiny@1")
    job = bench.jobs.submit(line, "submitted", state="running")
    bench.jobs.cancel(job)
    result = bench.run(assets.LINE, str(line), {JOB_TAG: job})
    assert not result.success
    assert "cancelled" in bench.failure(result)
    assert bench.jobs.get(job)["state"] == "cancelled"


def test_a_base_model_with_code_of_its_own_is_refused(bench: Bench, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "unsafe")
    (folder / "modeling_mine.py").write_text("print('hello')")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    message = bench.failure(bench.run([assets.base_model], _add_base(bench, folder)))
    assert "modeling_mine.py" in message
    assert "pytorch_model.bin" in message


def test_registering_a_base_from_the_command_line_makes_its_partition(tmp_path: Path) -> None:
    bench = Bench()
    key = register(bench.parts, "starter", {"kind": "starter", "seed": 1, "steps": 1})
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("base") == [str(key)]


def test_a_job_of_another_tenant_is_refused(bench: Bench) -> None:
    """A run relaunched with copied tags must not carry one tenant's rows to another's model."""
    ours = bench.run([assets.training_plan], f"{DATASET}|tiny@1")
    job = bench.instance.get_run_by_id(ours.run_id).tags[JOB_TAG]
    assert bench.data_run("globex/faq", {"rows.jsonl": chat_rows(60), **UNASKED}).success
    for selection in ([assets.training_plan], [assets.tokenized_shards]):
        result = bench.run(selection, "globex/faq|tiny@1", {JOB_TAG: job})
        assert not result.success
    with pytest.raises(NotFound):
        bench.parts.store.get_doc(latest_doc("training_plan", "globex/faq|tiny@1"))


def test_a_lost_object_is_made_again(bench: Bench) -> None:
    first = bench.run([assets.training_plan, assets.tokenized_shards], f"{DATASET}|tiny@1")
    digest = first.output_for_node("tokenized_shards").shards["train"][0]
    (bench.parts.settings.home / "store" / "objects" / digest[:2] / digest).unlink()
    again = bench.run([assets.training_plan, assets.tokenized_shards], f"{DATASET}|tiny@1")
    assert again.success
    assert _reused(again)["tokenized_shards"] is False
    assert bench.parts.store.has(digest)
