"""How long a step may be silent: a slow one is not a hanging one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_support import store_in, tiny_spec

from ftplatform.core.payload import HEARTBEAT_FILE
from ftplatform.launchers.folder import announced_silence
from ftplatform.launchers.local import HEARTBEAT_TIMEOUT
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training import watch
from ftplatform.training.job import train
from ftplatform.training.trainer import MethodTrainer
from ftplatform.training.watch import SLOW_STEP, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def watching(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Watch, Clock]:
    clock, uploads = Clock(), SimpleNamespace(error=None)
    monkeypatch.setattr(watch, "time", clock)
    meter = SimpleNamespace(figures=lambda *figures: {"tokens_per_second": 1.0})
    made = Watch(PayloadIO(folder), uploads, None, meter, worst_loss=10.0, **options)  # type: ignore[arg-type]
    made.on_train_begin(None, None, None)  # type: ignore[arg-type]
    return made, clock


def step(one: Watch, clock: Clock, seconds: float, micro_batches: int = 1) -> None:
    """All but half a second of a step is the GPU's, which the host waits for when it asks for the loss."""
    state, control = SimpleNamespace(global_step=1, max_steps=9), SimpleNamespace(should_save=False)
    call: Any = (None, state, control)
    one.on_step_begin(*call)
    for _ in range(micro_batches - 1):
        clock.now += 0.5 / micro_batches
        one.on_substep_end(*call)
    clock.now += 0.5 / micro_batches
    one.on_step_end(*call)
    clock.now += seconds - 0.5
    one.on_log(*call, logs={"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1e-3})


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_step_may_take_ten_times_the_slowest_and_the_first_half_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batches: int
) -> None:
    one, clock = watching(tmp_path, monkeypatch)
    one.on_step_begin(None, None, None)  # type: ignore[arg-type]
    assert announced_silence(tmp_path) == SLOW_STEP == 1800
    for seconds, expected in ((30.0, 300), (3.0, 300), (50.0, 500)):
        step(one, clock, seconds, micro_batches)
        one.on_step_begin(None, None, None)  # type: ignore[arg-type]
        assert announced_silence(tmp_path) == expected


def test_with_optimizer_states_in_the_host_every_step_may_take_half_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, clock = watching(tmp_path, monkeypatch, slow_steps=True)
    step(one, clock, 3.0)
    one.on_step_begin(None, None, None)  # type: ignore[arg-type]
    assert announced_silence(tmp_path) == SLOW_STEP


def test_a_training_announces_its_first_step_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, place, found = tiny_spec(tmp_path, steps=3), tmp_path / "attempt", []
    place.mkdir()
    real = MethodTrainer.training_step

    def seen(self: MethodTrainer, *given: Any, **named: Any) -> Any:
        found.append(float((place / HEARTBEAT_FILE).read_text()))
        return real(self, *given, **named)

    monkeypatch.setattr(MethodTrainer, "training_step", seen)
    assert train(spec, PayloadIO(place), store_in(tmp_path)[1]).outcome == "done"
    first, later = found[: spec.accumulation], found[spec.accumulation :]
    assert set(first) == {SLOW_STEP}
    assert max(later) < HEARTBEAT_TIMEOUT, "steps of milliseconds are watched by the launcher's own limit"
