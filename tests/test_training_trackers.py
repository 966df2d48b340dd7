"""TensorBoard, W&B and Aim: the setting, and what their own libraries get. Each with a fake library that remembers, and with the
real one where it is installed.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from training_support import tiny_spec

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import Tracking
from ftplatform.core.trackers import PACKAGES, TrackerAddress, parse_trackers
from ftplatform.launchers.environment import clean_environment
from ftplatform.settings import load_settings
from ftplatform.training.trackers import Backend, StepFigures, aim, tensorboard, wandb

KEY = "k" * 64
TRACKING = Tracking(uri="sqlite://", experiment="acme/support", run_name="tiny@1 abcd", tags={"ft.job": "job-1"})


def steps(first: int, last: int) -> list[StepFigures]:
    return [StepFigures(step, 1e9 + step, {"loss": 1 / step, "lr": 0.1}) for step in range(first, last + 1)]


def two_attempts(first: Backend, second: Backend) -> None:
    """Sixty steps, and a resume from step 40; what is sent a second time must not count twice."""
    first.open()
    first.send(steps(1, 60))
    first.send(steps(51, 60))
    first.end("RUNNING")
    second.open()
    second.send(steps(41, 80))
    second.end("FINISHED")


def test_the_setting_names_trackers_with_their_places() -> None:
    assert parse_trackers("") == ()
    found = parse_trackers("tensorboard:/tb, wandb:https://w.example.com,aim:aim://host:53800")
    assert [(one.kind, one.target, one.remote) for one in found] == [
        ("tensorboard", "/tb", False), ("wandb", "https://w.example.com", True), ("aim", "aim://host:53800", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("comet:/x", "accepted are tensorboard, wandb, aim"),
        ("tensorboard", "tensorboard:/folder"),
        ("tensorboard:relative", "tensorboard:/folder"),
        ("tensorboard:https://host", "tensorboard:/folder"),
        ("wandb:https://", "wandb:/folder or http://"),
        ("wandb:/a,wandb:/b", "twice"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        parse_trackers(text)


def test_a_missing_package_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "aim", "a_package_nobody_has")
    with pytest.raises(InvalidConfig, match="pip install a_package_nobody_has"):
        load_settings({"FTPLATFORM_TRACKERS": "aim:/aim"})
    elsewhere = load_settings({"FTPLATFORM_TRACKERS": "aim:/aim", "FTPLATFORM_PAYLOAD_PYTHON": "/other/python"})
    assert [one.kind for one in elsewhere.trackers] == ["aim"]


def test_a_payload_gets_the_key_only_of_a_tracker_that_is_a_server(tmp_path: Path) -> None:
    source = {"PATH": "/bin", "WANDB_API_KEY": "secret", "WANDB_MODE": "online"}
    for target, there in (("/folder", False), ("https://w.example.com", True)):
        tracking = TRACKING.model_copy(update={"others": (TrackerAddress(kind="wandb", target=target),)})
        spec = tiny_spec(tmp_path).model_copy(update={"tracking": tracking})
        env = clean_environment(source, spec, tmp_path, tmp_path)
        assert ("WANDB_API_KEY" in env, "WANDB_MODE" in env) == (there, False)
        assert env["WANDB_ERROR_REPORTING"] == "false"


class FakeWandb(ModuleType):
    """Runs by id, as a server keeps them."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, dict[int, dict[str, float]]] = {}
        self.asked: list[dict[str, Any]] = []

    Settings = staticmethod(lambda **fields: SimpleNamespace(**fields))

    def init(self, **asked: Any) -> Any:
        self.asked.append(asked)
        kept = self.runs.setdefault(asked["id"], {})
        found = bool(kept) and asked["resume"] == "allow"
        return SimpleNamespace(
            step=max(kept, default=0) + 1 if found else 0, resumed=found,
            log=lambda figures, step: kept.update({step: figures}),
            finish=lambda exit_code: self.asked.append({"exit": exit_code}),
        )  # fmt: skip


def test_wandb_gets_one_run_per_training_and_stays_offline_with_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    server = "https://w.example.com"
    two_attempts(wandb.open_backend(server, TRACKING, KEY), wandb.open_backend(server, TRACKING, KEY))
    assert list(fake.runs) == [KEY[:32]]
    assert sorted(fake.runs[KEY[:32]]) == list(range(1, 81))
    asked = fake.asked[0]
    assert (asked["mode"], asked["project"], asked["settings"].base_url) == ("online", "acme.support", server)
    assert fake.asked[-1] == {"exit": 0}
    offline = wandb.open_backend(str(tmp_path / "w"), TRACKING, KEY)
    offline.open()
    assert (fake.asked[-1]["mode"], fake.asked[-1]["dir"]) == ("offline", str(tmp_path / "w"))


class FakeAim(ModuleType):
    def __init__(self) -> None:
        super().__init__("aim")
        self.runs: dict[str, Any] = {}
        fake = self

        class Run(dict):  # type: ignore[type-arg]
            def __init__(self, run_hash: str | None, **asked: Any) -> None:
                self.hash = run_hash or f"run{len(fake.runs)}"
                super().__init__(fake.runs[run_hash] if run_hash else {})
                self.points = fake.runs[run_hash].points if run_hash else []
                self.description = fake.runs[run_hash].description if run_hash else ""
                fake.runs[self.hash] = self

            def track(self, value: float, name: str, step: int) -> None:
                self.points.append((name, step))

            def close(self) -> None: ...

        def query(text: str, report_mode: int) -> Any:
            found = [SimpleNamespace(run=run) for run in fake.runs.values() if repr(run.description) in text]
            return SimpleNamespace(iter_runs=lambda: iter(found))

        self.Run = Run
        self.Repo = SimpleNamespace(from_path=lambda path, init: SimpleNamespace(query_runs=query))


def test_aim_finds_its_run_again_and_takes_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAim()
    monkeypatch.setitem(sys.modules, "aim", fake)
    target = str(tmp_path / "aim")
    two_attempts(aim.open_backend(target, TRACKING, KEY), aim.open_backend(target, TRACKING, KEY))
    [run] = fake.runs.values()
    assert [step for name, step in run.points if name == "loss"] == list(range(1, 81))
    assert (run["status"], run["ft.job"]) == ("FINISHED", "job-1")


def test_tensorboard_hides_what_an_earlier_attempt_wrote_of_steps_that_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, dict[tuple[str, int], float]] = {}

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            self.points = shown.setdefault(folder, {})
            for name, step in [place for place in self.points if place[1] >= purge_step]:
                del self.points[name, step]

        def add_scalar(self, name: str, value: float, step: int, walltime: float) -> None:
            assert (name, step) not in self.points
            self.points[name, step] = value

        def flush(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))  # type: ignore[arg-type]
    target = str(tmp_path)
    two_attempts(tensorboard.open_backend(target, TRACKING, KEY), tensorboard.open_backend(target, TRACKING, KEY))
    [(folder, points)] = shown.items()
    assert folder == str(tmp_path / "acme" / "support" / "tiny@1-abcd")
    assert sorted(step for name, step in points if name == "loss") == list(range(1, 81))


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_shows_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    target = str(tmp_path)
    two_attempts(tensorboard.open_backend(target, TRACKING, KEY), tensorboard.open_backend(target, TRACKING, KEY))
    shown = EventAccumulator(str(tmp_path / "acme" / "support" / "tiny@1-abcd"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss")] == list(range(1, 81))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_itself_writes_offline_runs(tmp_path: Path) -> None:
    two_attempts(wandb.open_backend(str(tmp_path), TRACKING, KEY), wandb.open_backend(str(tmp_path), TRACKING, KEY))
    assert [path.stat().st_size > 1000 for path in tmp_path.rglob("*.wandb")] == [True, True]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("aim") is None, reason="aim is not installed")
def test_aim_itself_keeps_one_run(tmp_path: Path) -> None:
    two_attempts(aim.open_backend(str(tmp_path), TRACKING, KEY), aim.open_backend(str(tmp_path), TRACKING, KEY))
    import aim as library

    found = library.Repo(str(tmp_path)).query_runs(f"run.description == '{KEY}'", report_mode=0).iter_runs()
    assert len(list(found)) == 1
