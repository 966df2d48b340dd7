"""The reconciler against a holder in memory, and against the real server."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from serving_support import make_bench, serve, wait_until

from ftplatform.core.errors import NotFound
from ftplatform.serving.desired import DesiredState, Route, ServedModel
from ftplatform.serving.reconciler import Reconciler


class Entry:
    def __init__(self, wanted: ServedModel) -> None:
        self.wanted, self.name = wanted, wanted.name


class Shelf:
    """An engine without models: remembers what it was told, fails for the names in ``broken``."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.current: list[Route] = []
        self.broken: set[str] = set()
        self.calls: list[str] = []

    def models(self) -> list[Entry]:
        return list(self.entries.values())

    def load(self, wanted: ServedModel) -> None:
        self.calls.append(f"load {wanted.name}")
        if wanted.name in self.broken:
            raise NotFound(f"{wanted.name} is not in the store")
        self.entries[wanted.name] = Entry(wanted)

    def unload(self, name: str) -> None:
        self.calls.append(f"unload {name}")
        del self.entries[name]

    def routes(self) -> list[Route]:
        return self.current

    def set_routes(self, routes: list[Route]) -> None:
        self.calls.append("route " + ", ".join(name for route in routes for name, _ in route.targets))
        self.current = routes


class Source:
    def __init__(self, *names: str, route: str | None = None) -> None:
        self.want(*names, route=route)

    def want(self, *names: str, route: str | None = None) -> None:
        routes = () if route is None else (Route(model="acme.support", targets=((route, 1.0),)),)
        self.state: DesiredState | Exception = DesiredState(models=tuple(map(model, names)), routes=routes)

    def read(self) -> DesiredState:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


def model(name: str) -> ServedModel:
    return ServedModel(name=name, kind="lora", weights=f"weights-{name}", base_weights="base")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("ftplatform.serving.reconciler.time.time", lambda: now[0])
    return now


def test_a_route_moves_only_when_its_new_target_is_loaded_and_the_old_one_stays_until_then(clock: list[float]) -> None:
    shelf, source = Shelf(), Source("v1", route="v1")
    reconciler = Reconciler(source, shelf)
    reconciler.step()
    shelf.broken = {"v2"}
    source.want("v2", route="v2")
    clock[0] += 100
    reconciler.step()
    assert shelf.current[0].targets == (("v1", 1.0),)
    assert "v1" in shelf.entries
    assert reconciler.state()["waiting_routes"] == ["acme.support"]
    assert not reconciler.state()["reached"]
    shelf.broken = set()
    clock[0] += 100
    reconciler.step()
    assert shelf.calls == ["load v1", "route v1", "load v2", "load v2", "route v2", "unload v1"]
    assert reconciler.state()["reached"]


def test_a_failed_load_is_tried_again_ever_more_slowly_and_logged_once(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    shelf, source = Shelf(), Source("good", "bad")
    shelf.broken = {"bad"}
    reconciler = Reconciler(source, shelf)
    tries = []
    with caplog.at_level(logging.ERROR):
        for second in range(200):
            clock[0] = 1000.0 + second
            before = len(shelf.calls)
            reconciler.step()
            tries += [second] * ("load bad" in shelf.calls[before:])
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert [record.message for record in caplog.records] == ["bad: NotFound: bad is not in the store"]
    observed = {entry["name"]: entry for entry in reconciler.state()["models"]}
    assert observed["good"]["state"] == "serving"
    assert observed["bad"]["state"] == "failed"
    assert observed["bad"]["attempts"] == 9
    assert "not in the store" in observed["bad"]["message"]


def test_what_somebody_loaded_by_hand_is_left_alone(clock: list[float]) -> None:
    shelf, source = Shelf(), Source("mine")
    shelf.load(model("theirs"))
    reconciler = Reconciler(source, shelf)
    reconciler.step()
    source.want()
    reconciler.step()
    assert list(shelf.entries) == ["theirs"]


def test_while_the_source_is_away_nothing_changes(clock: list[float]) -> None:
    shelf, source, told = Shelf(), Source("v1", route="v1"), []
    reconciler = Reconciler(source, shelf, report=told.append)
    reconciler.step()
    source.state = ConnectionError("database is down")
    reconciler.step()
    assert list(shelf.entries) == ["v1"]
    assert shelf.current
    assert told[-1]["problems"] == {"desired state": "ConnectionError: database is down"}
    source.want("v1", route="v1")
    reconciler.step()
    assert told[-1]["problems"] == {}
    assert told[-1]["reached"]


def test_a_report_that_fails_stops_nothing(clock: list[float]) -> None:
    shelf, source = Shelf(), Source("v1")

    def report(state: dict) -> None:
        raise OSError("catalog is away")

    reconciler = Reconciler(source, shelf, report=report)
    reconciler.step()
    assert list(shelf.entries) == ["v1"]
    assert "report" in reconciler.state()["problems"]


def test_the_server_follows_the_desired_state_without_losing_a_request(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    source = Source()
    states = {}
    for seed, name in enumerate(("v1", "v2"), start=1):
        bench.adapter(name, seed)
        wanted = bench.served(name, fingerprint=bench.fingerprint(name))
        states[name] = DesiredState(models=(wanted,), routes=(Route(model="acme.support", targets=((name, 1.0),)),))
    with serve(bench, source=source) as server:

        def ask() -> httpx.Response:
            body = {"model": "acme.support", "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
            return httpx.post(server.url + "/v1/completions", json=body)

        source.state = states["v1"]
        wait_until(lambda: ask().status_code == 200, "v1 answers")
        source.state = states["v2"]
        answered = []
        wait_until(lambda: answered.append(ask()) or answered[-1].json().get("model") == "v2", "v2 answers")
        assert {answer.status_code for answer in answered} == {200}
        wait_until(lambda: [m.name for m in server.pool.models()] == ["v2"], "v1 is gone")
        health = httpx.get(server.url + "/health").json()["reconciler"]
        assert health["reached"]
        assert [entry["name"] for entry in health["models"]] == ["v2"]
