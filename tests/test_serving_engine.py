"""The control plane's client of an engine, against the real server and against nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from serving_support import Bench, Running, make_bench, serve

from ftplatform.core.errors import Conflict, InvalidConfig, NotFound
from ftplatform.serving.desired import Route
from ftplatform.serving.engine import Done, EngineAway, HttpEngine
from ftplatform.serving.fingerprint import verify


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = make_bench(tmp_path_factory.mktemp("engine"))
    for seed, name in enumerate(("A", "B"), start=1):
        made.adapter(name, seed)
    return made


@pytest.fixture(scope="module")
def server(bench: Bench) -> Iterator[Running]:
    with serve(bench) as running:
        yield running


def test_load_list_probe_unload(server: Running, bench: Bench) -> None:
    engine = HttpEngine(server.url)
    for name in ("A", "B"):
        assert isinstance(engine.load(name, "lora", bench.adapters[name], bench.base), Done)
    assert isinstance(engine.load("base", "base", bench.base, bench.base), Done)
    assert {model.name: model.root for model in engine.models()} == {
        "A": f"tree:{bench.adapters['A']}", "B": f"tree:{bench.adapters['B']}", "base": f"tree:{bench.base}",
    }  # fmt: skip
    prints = {
        name: bench.store.get_json(bench.fingerprint(name if name != "base" else None)) for name in ("A", "B", "base")
    }
    for name in prints:
        for other, fingerprint in prints.items():
            assert engine.probe(name, fingerprint).matches == (name == other)
    with pytest.raises(Conflict, match="already been loaded"):
        engine.load("A", "lora", bench.adapters["A"], bench.base)
    with pytest.raises(Conflict, match="stands for"):
        engine.load("A", "lora", bench.adapters["B"], bench.base)
    with pytest.raises(NotFound):
        engine.load("C", "lora", "0" * 64, bench.base)
    with pytest.raises(InvalidConfig, match="chat template"):
        engine.load("C", "lora", bench.adapters["A"], bench.base, template="e" * 64)
    assert isinstance(engine.unload("B"), Done)
    with pytest.raises(NotFound):
        engine.unload("B")
    with pytest.raises(NotFound):
        engine.probe("B", prints["B"])


def test_a_probe_through_a_route_does_not_pass_for_the_model_itself(server: Running, bench: Bench) -> None:
    engine = HttpEngine(server.url)
    engine.load("named", "lora", bench.adapters["A"], bench.base)
    server.pool.set_routes([Route(model="acme.support", targets=(("named", 1.0),))])
    result = engine.probe("acme.support", bench.store.get_json(bench.fingerprint("A")))
    assert not result.matches
    assert "named answered" in result.message


def test_an_engine_that_is_not_there_is_a_value() -> None:
    engine = HttpEngine("http://127.0.0.1:9")
    for answer in (
        engine.models(),
        engine.load("A", "lora", "0" * 64, "0" * 64),
        engine.unload("A"),
        engine.probe("A", FINGERPRINT),
    ):
        assert isinstance(answer, EngineAway)
        assert "ConnectError" in answer.reason


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_engine_that_is_busy_is_away_too(status: int) -> None:
    client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(status, text="busy")))
    assert isinstance(HttpEngine("http://engine", client=client).models(), EngineAway)


def test_a_500_is_an_error_that_a_retry_may_help() -> None:
    client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(500, text="oops")))
    with pytest.raises(InvalidConfig, match="oops") as caught:
        HttpEngine("http://engine", client=client).models()
    assert caught.value.retry_helps


FINGERPRINT = {"prompt_ids": [1], "token_ids": [5, 6], "logprobs": [-0.5, -1.0]}


@pytest.mark.parametrize(
    ("tokens", "logprobs", "matches"),
    [
        ([5, 6], [-0.5, -1.0], True),
        ([5, 6], [-0.51, -1.01], True),
        ([5, 6], [-0.5, -1.03], False),
        ([5, 7], [-0.5, -1.0], False),
        ([5], [-0.5], False),
        ([5, 6], [float("nan"), -1.0], False),
        ([5, 6], [-1.0, float("nan")], False),
    ],
)
def test_a_fingerprint_wants_the_tokens_and_their_log_probabilities(
    tokens: list, logprobs: list, matches: bool
) -> None:
    assert verify(FINGERPRINT, tokens, logprobs).matches is matches


@pytest.mark.parametrize("value", [None, {}, {**FINGERPRINT, "logprobs": []}, {**FINGERPRINT, "prompt_ids": []}])
def test_what_is_no_fingerprint_is_refused(value: object) -> None:
    with pytest.raises(InvalidConfig, match="fingerprint"):
        verify(value, [5, 6], [-0.5, -1.0])  # type: ignore[arg-type]


def test_a_route_divides_users_by_weight_and_keeps_each_where_it_is() -> None:
    route = Route(model="acme.support", targets=(("a", 0.9), ("b", 0.1), ("c", 0.0)))
    chosen = [route.choose(f"user-{n}") for n in range(5000)]
    assert chosen == [route.choose(f"user-{n}") for n in range(5000)]
    assert 400 < chosen.count("b") < 600
    assert "c" not in chosen
    with pytest.raises(ValueError, match="weights"):
        Route(model="acme.support", targets=(("a", 0.0),))


def test_the_port_the_desired_state_and_the_reconciler_import_no_torch() -> None:
    code = (
        "import sys, ftplatform.serving.engine, ftplatform.serving.reconciler, ftplatform.serving.catalog_source\n"
        "sys.exit(', '.join({'torch', 'transformers', 'peft'} & sys.modules.keys()) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
