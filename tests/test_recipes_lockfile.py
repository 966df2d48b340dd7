"""The lockfile of a job: what it pins, what counts as drift, and a training that gives the same bytes again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from training_support import tiny_base, tiny_shard, tiny_spec
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.cli.common import open_parts
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import BaseKey, LineKey
from ftplatform.core.manifests import Adapter, BaseModel, CuratedDataset, TokenizedShards
from ftplatform.core.payload import TrainSpec
from ftplatform.core.plan import MemoryEstimate, Placement, Plan
from ftplatform.recipes.lockfile import LOCKFILE, Lock, drift, lock, observe
from ftplatform.resources.jobs import job_doc
from ftplatform.resources.platform import Parts

RUNNER = CliRunner()
BASE = "0123abcd"


def locked(spec: TrainSpec, job: str, weights: str, fingerprint: str = "f" * 64) -> Lock:
    curated = CuratedDataset(
        dataset="acme/support", splits={"train": "1" * 64}, rows={"train": 24}, config="2" * 64, removed={}, pii={}
    )
    plan = Plan(
        dataset="acme/support",
        recipe="tiny@1",
        recipe_digest="3" * 64,
        curated=curated,
        base=BaseModel(
            slug="tiny", revision=BASE, weights=spec.base_weights, replay=None, parameters=1, architecture="LlamaForCausalLM",
            max_length=32, vocabulary=64,
        ),
        champion=None,
        suites=(),
        method=spec.method,
        parameterisation=spec.parameterisation,
        lora=spec.lora,
        training=spec.training,
        replay=0.0,
        micro_batch=spec.micro_batch,
        accumulation=spec.accumulation,
        steps=spec.steps,
        train_tokens=1,
        placement=Placement(gpu="cpu", gpus=1, spot=False, priority="normal", shared_memory_gb=8, image=None),
        memory_gb=MemoryEstimate(weights=0, gradients=0, optimizer=0, activations=0, logits=0, other=0, total=0),
        hours=(0, 0),
        price=(0, 0),
        currency="USD",
        servable=True,
        reasons=(),
    )  # fmt: skip
    shards = TokenizedShards(
        layout="sft", shards=spec.shards, sequences={}, tokens={}, supervised={}, dropped={}, max_length=32, template="4" * 64,
        tokenizer="5" * 64,
    )  # fmt: skip
    adapter = Adapter(
        kind="lora", weights=weights, base=f"tiny@{BASE}", base_weights=spec.base_weights, steps=spec.steps, tokens=1,
        final_loss=1.0, template="4" * 64, fingerprint=fingerprint,
    )  # fmt: skip
    return lock(job, plan, shards, spec, adapter, observe(spec.method, None))


def test_a_lock_names_everything_that_made_the_weights(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    found = locked(spec, "ftjob-1", "a" * 64)
    assert found.data == {
        "curated": found.data["curated"],
        "template": "4" * 64,
        "tokenizer": "5" * 64,
        "split train": "1" * 64,
        "shard train 0": spec.shards["train"][0],
        "shard validation 0": spec.shards["validation"][0],
    }
    assert (found.base, found.base_weights) == (f"tiny@{BASE}", spec.base_weights)
    assert found.seeds == {"training.seed": 17}
    # Every default is written out, and no address or key, which name places.
    assert found.resolved["lora.use_dora"] is False
    assert found.resolved["training.weight_decay"] == 0.0
    assert not {name.split(".")[0] for name in found.resolved} & {"key", "store", "tracking", "shards"}
    assert {"torch", "transformers", "peft"} <= set(found.environment.stack)
    assert Lock.model_validate(found.model_dump(mode="json")) == found


def test_drift_is_told_field_by_field(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    before = locked(spec, "ftjob-1", "a" * 64)
    other = spec.model_copy(update={"key": "b" * 64, "training": spec.training.model_copy(update={"seed": 3})})
    after = locked(other, "ftjob-2", "b" * 64)
    stack = {**after.environment.stack, "torch": "9.9"}
    after = after.model_copy(update={"environment": after.environment.model_copy(update={"stack": stack})})
    torch = before.environment.stack["torch"]
    assert drift(before, before.model_copy(update={"job": "ftjob-3"})) == {}
    assert drift(before, after) == {
        "environment.stack.torch": (torch, "9.9"),
        "seeds.training.seed": (17, 3),
        "resolved.training.seed": (17, 3),
        "weights": ("a" * 64, "b" * 64),
    }


def test_an_image_is_pinned_by_its_digest_only() -> None:
    pinned = f"registry.example/ft@sha256:{'c' * 64}"
    assert observe("sft", pinned).image_digest == f"sha256:{'c' * 64}"
    assert observe("sft", "registry.example/ft:latest").image_digest is None
    with pytest.raises(InvalidConfig, match="no_such_python was asked for its packages"):
        observe("sft", None, "no_such_python")


def test_another_interpreter_is_asked_for_its_own_packages(tmp_path: Path) -> None:
    # By another name, so that it is asked and not taken for this one.
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    assert observe("sft", None, str(other)) == observe("sft", None)


def test_the_code_of_the_method_is_part_of_it() -> None:
    assert observe("sft", None).code != observe("dpo", None).code


def trained(parts: Parts, folder: Path) -> str:
    """A job of the catalog whose training ran for real, with its lockfile."""
    store = parts.store
    spec = tiny_spec(folder, steps=4).model_copy(update={"store": parts.settings.store})
    # The same base and shards in the platform's own store.
    (folder / "own").mkdir()
    assert tiny_base(store, folder / "own") == spec.base_weights
    tiny_shard(store, folder / "own")
    tiny_shard(store, folder / "own", 4, seed=1)
    line = LineKey.parse("acme/support|tiny@1")
    parts.catalog.bases.add(BaseKey("tiny", BASE), {"kind": "folder"})
    job = parts.catalog.jobs.submit(line, "submitted", state="running")
    handle = parts.launcher.submit(spec)
    result = parts.launcher.wait(handle, lambda progress: None, lambda: False)
    assert result.outcome == "done", result.message
    parts.catalog.jobs.set_state(job, "promoted")
    made = locked(spec, job, result.artifacts["weights"], result.artifacts["fingerprint"])
    store.put_doc(job_doc(job, LOCKFILE), made.model_dump(mode="json"))
    return job


@pytest.mark.slow
def test_a_job_is_reproduced_to_the_byte_and_a_changed_pin_is_not(tmp_path: Path) -> None:
    parts = open_parts()
    job = trained(parts, tmp_path / "work")
    found = RUNNER.invoke(app, ["reproduce", job])
    assert found.exit_code == 0, found.output
    assert "the same weights" in " ".join(found.output.split())
    jobs = {one["job"]: one for one in parts.catalog.jobs.all()}
    (new,) = set(jobs) - {job}
    assert (jobs[new]["state"], jobs[new]["reason"]) == ("reproduced", "reproduce")
    assert len(parts.catalog.jobs.attempts(new)) == 1, "it was trained again and not found"
    before, after = (Lock.model_validate(parts.store.get_doc(job_doc(one, LOCKFILE))) for one in (job, new))
    assert (after.weights, after.fingerprint) == (before.weights, before.fingerprint)
    assert drift(before, after) == {}

    # The same reproduction of a lock with another seed than its weights were made with.
    forged = before.spec.model_copy(update={"training": before.spec.training.model_copy(update={"seed": 99})})
    document = before.model_copy(update={"spec": forged}).model_dump(mode="json")
    parts.store.put_doc(job_doc(job, LOCKFILE), document)
    found = RUNNER.invoke(app, ["reproduce", job])
    assert found.exit_code == 1
    assert "weights" in found.output


def test_a_job_without_a_lockfile_cannot_be_reproduced() -> None:
    parts = open_parts()
    job = parts.catalog.jobs.submit(LineKey.parse("acme/support|tiny@1"), "submitted")
    found = RUNNER.invoke(app, ["reproduce", job])
    assert "has no lockfile" in str(found.exception)
    assert "unknown" in str(RUNNER.invoke(app, ["reproduce", f"ftjob-{digest_json(1)[:16]}"]).exception)
