"""Trainings that take no time: a launcher whose losses and scores are a formula of the learning rate and the rank."""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftplatform.core.payload import PROGRESS_FILE, EvalSpec, PayloadResult, PayloadSpec, TrainSpec
from ftplatform.launchers.base import Handle
from ftplatform.store import ObjectStore


class Killed(BaseException):
    """What no code may catch and go on: the process is gone."""


def quality(spec: TrainSpec) -> float:
    """1 for the best learning rate, 10 ** -2.5; less away from it, and a little less for a small rank."""
    away = abs(math.log10(spec.training.learning_rate) + 2.5)
    return 1 / (1 + away) - 0.01 * abs(math.log2(spec.lora.rank / 8))


@dataclass
class FormulaLauncher:
    """Evaluates at each ``evaluate_every``. ``at`` is called before every evaluation with (spec, step): it may kill or interrupt."""

    root: Path
    store: ObjectStore
    at: Callable[[TrainSpec, int], None] = lambda spec, step: None
    outcome: Callable[[TrainSpec], str] = lambda spec: "done"
    started: list[str] = field(default_factory=list)
    """Keys of the trainings that began; one that goes on after its waiter died is not begun again."""
    cancelled: list[str] = field(default_factory=list)
    most: int = 0
    """Payloads that ran at the same time."""

    def __post_init__(self) -> None:
        self._reached: dict[str, int] = {}
        self._lock, self._now = threading.Lock(), 0

    def submit(self, spec: PayloadSpec, attempt: int | None = None) -> Handle:
        folder = self.root / f"{spec.kind}-{spec.key[:16]}" / "0001"
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(spec, TrainSpec) and spec.key not in self._reached:
            self.started.append(spec.key)
            self._reached[spec.key] = 0
        (folder / "spec.json").write_text(spec.model_dump_json())
        return Handle(spec.kind, spec.key, 1, folder)

    def wait(self, handle: Handle, on_progress: Any, should_cancel: Callable[[], bool], **rest: Any) -> PayloadResult:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            text = (handle.folder / "spec.json").read_text()
            if handle.kind == "evaluate":
                return self._evaluate(EvalSpec.model_validate_json(text))
            return self._train(TrainSpec.model_validate_json(text), handle, should_cancel)
        finally:
            with self._lock:
                self._now -= 1

    def cancel(self, handle: Handle, grace: float = 60.0) -> None:
        self.cancelled.append(handle.key)

    def _train(self, spec: TrainSpec, handle: Handle, should_cancel: Callable[[], bool]) -> PayloadResult:
        every = spec.training.evaluate_every or spec.steps
        for step in range(every, spec.steps + 1, every):
            self.at(spec, step)
            if step > self._reached[spec.key]:
                line = {
                    "time": 0.0,
                    "message": f"step {step}",
                    "step": step,
                    "of": spec.steps,
                    "eval_loss": loss(spec, step),
                }
                with (handle.folder / PROGRESS_FILE).open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                self._reached[spec.key] = step
            if should_cancel():
                self.cancelled.append(spec.key)
                return PayloadResult(outcome="preempted", message=f"terminated at step {step}")
        outcome = self.outcome(spec)
        if outcome != "done":
            return PayloadResult(
                outcome=outcome, message=f"it {outcome}", artifacts={"metrics": self.store.put_bytes(b"")}
            )  # type: ignore[arg-type]
        records = [{"step": step, "loss": 1.0} for step in range(1, spec.steps + 1)]
        for record in records:
            if record["step"] % every == 0:
                record["eval_loss"] = loss(spec, int(record["step"]))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "weights.json").write_text(json.dumps({"key": spec.key, "quality": quality(spec)}))
            weights = self.store.put_tree(Path(folder))
        artifacts = {
            "weights": weights,
            "metrics": self.store.put_bytes("".join(json.dumps(one) + "\n" for one in records).encode()),
            "fingerprint": self.store.put_json({"of": spec.key}),
        }
        numbers = {"eval_loss": loss(spec, spec.steps), "final_loss": 1.0, "tokens": 1.0, "seconds": 1.0}
        return PayloadResult(outcome="done", message="trained", artifacts=artifacts, numbers=numbers)

    def _evaluate(self, spec: EvalSpec) -> PayloadResult:
        artifacts = {}
        for request in spec.requests:
            items = [json.loads(line) for line in self.store.get_bytes(request.suite.items).splitlines()]
            assert request.model.weights is not None
            tree = self.store.tree(request.model.weights)
            share = json.loads(self.store.get_bytes(tree.files[0].digest))["quality"]
            right = round(share * len(items))
            scored = [{"id": item["id"], "score": int(place < right)} for place, item in enumerate(items)]
            made = {"suite": request.suite.name, "n": len(items), "score": right / len(items), "items": scored}
            artifacts[request.cache] = self.store.put_json(made)
        return PayloadResult(outcome="done", message="scored", artifacts=artifacts)


def loss(spec: TrainSpec, step: int) -> float:
    return round(3 - quality(spec) * (1 + step / spec.steps) / 2, 6)
