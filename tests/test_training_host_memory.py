"""What follows when the kernel kills a training for the host's memory: on GPUs something else than on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_training_recovery_platform import JOB, Scripted, drive
from training_support import tiny_spec

from ftplatform.assets.attempts import HOST_MEMORY, judged, next_attempt
from ftplatform.assets.payloads import attempts_of
from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import PayloadResult, StarterSpec, StoreAddress, TrainSpec
from ftplatform.launchers.memory_events import KILLED


@pytest.fixture
def spec(tmp_path: Path) -> TrainSpec:
    return tiny_spec(tmp_path)


def ended(message: str, outcome: str = "out_of_memory") -> PayloadResult:
    return PayloadResult(outcome=outcome, message=message, resumed_from=3, numbers={"steps": 5.0})  # type: ignore[arg-type]


def killed() -> PayloadResult:
    return ended(f"attempt 1: the process ended without a result, and {KILLED} 1 of this machine's processes")


def test_on_gpus_a_kill_for_the_hosts_memory_is_no_reason_for_a_smaller_micro_batch(spec: TrainSpec) -> None:
    gpu = spec.model_copy(update={"peak_tflops": 989.0})
    result = judged(gpu, killed())
    assert (result.outcome, result.resumed_from, result.numbers) == ("failed", 3, {"steps": 5.0})
    assert result.message.startswith(HOST_MEMORY)
    assert "kubernetes.memory_gb" in result.message
    assert KILLED in result.message
    assert next_attempt(gpu, result, 1) == gpu, "the same once more, from its newest checkpoint"
    assert next_attempt(gpu, result, 2) is None
    assert next_attempt(gpu, ended("anything else", "failed"), 2) == gpu


def test_on_a_cpu_it_is_one(spec: TrainSpec) -> None:
    assert judged(spec, killed()) == killed()
    following = next_attempt(spec, judged(spec, killed()), 1)
    assert following is not None
    assert following.micro_batch == spec.micro_batch // 2


def test_what_the_gpu_itself_refused_stays_what_it_is(spec: TrainSpec) -> None:
    gpu = spec.model_copy(update={"peak_tflops": 989.0})
    for outcome in (ended("CUDA out of memory"), ended("killed from outside", "failed")):
        assert judged(gpu, outcome) == outcome
    starter = StarterSpec(key="a" * 64, store=StoreAddress(url="file:///s"), seed=0, steps=1, threads=1)
    assert judged(starter, killed()) == killed()


def test_a_second_such_kill_without_progress_ends_the_job_and_its_attempts_had_one_micro_batch(
    spec: TrainSpec, tmp_path: Path
) -> None:
    gpu = spec.model_copy(update={"peak_tflops": 989.0})
    launcher = Scripted(tmp_path, *[killed()] * 5)
    result, _, parts = drive(gpu, launcher)
    assert isinstance(result, PayloadFailed)
    assert not result.retry_helps
    assert HOST_MEMORY in str(result)
    assert [row["outcome"] for row in attempts_of(parts, JOB, gpu.key)] == ["failed", "failed"]
    assert launcher.specs == [gpu, gpu]
