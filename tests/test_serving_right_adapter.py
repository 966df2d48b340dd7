"""The proof that the right adapter answers: every log-probability against a reference computed elsewhere."""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from serving_support import Bench, make_bench, serve, wait_until

from ftplatform.serving.embedded_model import WrongAdapter
from ftplatform.serving.embedded_pool import Pool
from ftplatform.serving.embedded_scheduler import Scheduler
from ftplatform.serving.embedded_sequence import Sampling, Sequence

CLOSE = 2e-3
"""Nats between two ways of computing the same; adapters A and B disagree by nats on the same tokens."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = make_bench(tmp_path_factory.mktemp("right"))
    for seed, name in enumerate(("A", "B", "C"), start=1):
        made.adapter(name, seed)
    return made


def distance(bench: Bench, name: str | None, prompt: list[int], tokens: list[int], logprobs: list[float]) -> float:
    reference = bench.reference(name, prompt, tokens)
    return max(abs(got - want) for got, want in zip(logprobs, reference, strict=True))


def test_every_answer_under_load_is_its_own_adapters_while_another_is_loaded_and_unloaded(bench: Bench) -> None:
    with serve(bench, Scheduler(max_active=8, max_waiting=64)) as server:
        for name in ("A", "B"):
            server.pool.load(bench.served(name))
        server.pool.load(bench.served("base", kind="base", weights=bench.base))
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="-", max_retries=0)
        over, reloads, together = threading.Event(), [], []

        def churn() -> None:
            while not over.is_set():
                body = {"lora_name": "C", "lora_path": f"tree:{bench.adapters['C']}"}
                assert httpx.post(server.url + "/v1/load_lora_adapter", json=body).status_code == 200
                reloads.append(ask("C", 1000 + len(reloads)))
                assert httpx.post(server.url + "/v1/unload_lora_adapter", json={"lora_name": "C"}).status_code == 200

        def ask(name: str, seed: int) -> tuple[str, float, float]:
            draw = random.Random(seed)
            prompt = [draw.randrange(256) for _ in range(draw.randint(3, 20))]
            answer = client.completions.create(
                model=name, prompt=prompt, max_tokens=draw.randint(4, 12), temperature=1.0, seed=seed, logprobs=1,
                extra_body={"return_token_ids": True, "ignore_eos": True},
            )  # fmt: skip
            together.append(server.scheduler.state()["active"])
            assert answer.model == name
            choice = answer.choices[0]
            tokens, logprobs = choice.token_ids, choice.logprobs.token_logprobs
            others = [other for other in ("A", "B", "C", "base") if other != name]
            references = {
                other: distance(bench, None if other == "base" else other, prompt, tokens, logprobs)
                for other in (name, *others)
            }
            return name, references[name], min(references[other] for other in others)

        churner = threading.Thread(target=churn)
        churner.start()
        with ThreadPoolExecutor(8) as threads:
            names = ["A", "B", "A", "B", "base"]
            answers = list(threads.map(lambda n: ask(names[n % 5], n), range(160)))
        over.set()
        churner.join()
    assert Counter(name for name, _, _ in answers) == {"A": 64, "B": 64, "base": 32}
    assert max(together) >= 3, "the requests did not overlap, so nothing was proved"
    assert len(reloads) >= 3, "no adapter came and went meanwhile, so nothing was proved"
    for name, own, other in [*answers, *reloads]:
        assert own < CLOSE, f"{name}: differs from its own adapter by {own}"
        assert other > 50 * CLOSE, f"{name}: another adapter would have given the same, by {other}"


class SwitchesOnceARequest(Scheduler):
    """The classic mistake: the adapter is set when a request begins, and is trusted to stay."""

    def _forward(self, sequence, ids):  # type: ignore[no-untyped-def]
        instance = sequence.served.instance
        if not sequence.ids:
            instance._switch(sequence.served.adapter)
        return instance.forward(instance._active, ids, sequence.cache)


def answers_of_two_interleaved(bench: Bench, scheduler: Scheduler) -> dict[str, float]:
    """Distance of each of two answers, given in turns, from its own adapter's reference."""
    pool = Pool(bench.store, scheduler, bench.root / "trees")
    scheduler.start()
    try:
        for name in ("A", "B"):
            pool.load(bench.served(name))
        found: dict[str, queue.Queue] = {"A": queue.Queue(), "B": queue.Queue()}

        def submit_both() -> None:
            for name, events in found.items():
                sampling = Sampling(max_tokens=8, logprobs=0, ignore_eos=True)
                scheduler.submit(Sequence(pool.acquire(name, None), [1, 2, 3], sampling, events.put))

        scheduler.call(submit_both)
        deltas = {name: events.get(timeout=60) for name, events in found.items()}
    finally:
        scheduler.close()
    return {
        name: distance(bench, name, [1, 2, 3], [t.id for t in delta.tokens], [t.logprob for t in delta.tokens])
        for name, delta in deltas.items()
    }


def test_two_interleaved_answers_are_each_their_own_adapters(bench: Bench) -> None:
    assert all(value < CLOSE for value in answers_of_two_interleaved(bench, Scheduler()).values())


def test_the_comparison_finds_a_scheduler_that_sets_the_adapter_once_per_request(bench: Bench) -> None:
    assert max(answers_of_two_interleaved(bench, SwitchesOnceARequest()).values()) > 50 * CLOSE


def test_a_switch_behind_the_engines_back_stops_the_forward(bench: Bench) -> None:
    scheduler = Scheduler()
    pool = Pool(bench.store, scheduler, bench.root / "trees")
    scheduler.start()
    try:
        for name in ("A", "B"):
            pool.load(bench.served(name))
        a, b = pool.acquire("A", None), pool.acquire("B", None)

        def intrude() -> None:
            a.instance.score(a.adapter, [1], [2])
            a.instance._layers[0].set_adapter([b.adapter])
            a.instance.score(a.adapter, [1], [2])

        with pytest.raises(WrongAdapter):
            scheduler.call(intrude)
    finally:
        scheduler.close()


def test_a_second_thread_cannot_touch_a_model(bench: Bench) -> None:
    scheduler = Scheduler()
    pool = Pool(bench.store, scheduler, bench.root / "trees")
    scheduler.start()
    try:
        pool.load(bench.served("A"))
        a = pool.acquire("A", None)
        with pytest.raises(RuntimeError, match="second thread"):
            a.instance.score(a.adapter, [1], [2])
    finally:
        scheduler.close()


def test_an_answer_under_way_keeps_its_adapter_when_it_is_unloaded(bench: Bench, tmp_path: Path) -> None:
    with serve(bench) as server:
        for name in ("A", "B"):
            server.pool.load(bench.served(name))
        events: queue.Queue = queue.Queue()
        sampling = Sampling(max_tokens=200, logprobs=0, ignore_eos=True)
        served = server.pool.acquire("A", None)
        server.scheduler.submit(Sequence(served, [5, 6, 7], sampling, events.put, stream=True))
        deltas = [events.get(timeout=60)]
        server.pool.unload("A")
        assert [model.name for model in server.pool.models()] == ["B"]
        while not deltas[-1].last:
            deltas.append(events.get(timeout=60))
        tokens = [token for delta in deltas for token in delta.tokens]
        assert len(tokens) == 200
        assert distance(bench, "A", [5, 6, 7], [t.id for t in tokens], [t.logprob for t in tokens]) < CLOSE
        wait_until(
            lambda: served.users == 0 and server.scheduler.call(lambda: len(served.instance._peft.peft_config)) == 1,
            "A is freed",
        )
