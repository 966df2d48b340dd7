"""Synthetic rows: what becomes a row, a teacher that misbehaves, and the asset run for real against two teachers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from platform_support import Bench, chat_rows, dataset_yaml

from ftplatform import assets
from ftplatform.core.dataset_config import SyntheticConfig
from ftplatform.core.errors import DataRefused, InvalidConfig, PayloadFailed
from ftplatform.core.ids import DatasetKey
from ftplatform.core.rows import Message, Row
from ftplatform.data.synthetic.rows import Answer, Call, draw_seeds, find_pair, plan_calls, similarity, write_rows
from ftplatform.data.synthetic.teacher import BATCH, NoAnswer, Teacher, ask_all
from ftplatform.settings import load_settings

KEY = DatasetKey("acme", "support")
PARAPHRASE = SyntheticConfig(url="http://teacher/v1", model="big")
GENERATE = SyntheticConfig(url="http://teacher/v1", model="big", kind="generate")


def row(question: str, answer: str = "billing", **changes: Any) -> Row:
    return Row((Message("user", question), Message("assistant", answer)), "a:1", **changes)


# What is asked


def test_seeds_are_drawn_by_content_and_stay_as_the_data_grows() -> None:
    rows = [row(f"question {i}") for i in range(200)]
    config = PARAPHRASE.model_copy(update={"seeds": 20})
    first = draw_seeds(rows, config)
    assert draw_seeds(reversed(rows), config) == first, "the order of the rows does not matter"
    grown = draw_seeds([*rows, *(row(f"new {i}") for i in range(10))], config)
    assert len({r.hash for r in grown} & {r.hash for r in first}) >= 15
    assert draw_seeds(rows, config.model_copy(update={"seed": 1})) != first


def test_synthetic_rows_and_rows_of_other_kinds_are_no_seeds() -> None:
    tool = ({"type": "function", "function": {"name": "f"}},)
    rows = [row("a", tags={"source": "synthetic"}), row("b", tools=tool), Row((), "a:1", kind="text", text="c")]
    with pytest.raises(DataRefused, match="there is none"):
        draw_seeds(rows, PARAPHRASE)
    assert draw_seeds([*rows, row("d")], PARAPHRASE) == [row("d")]


def test_each_seed_is_asked_about_as_often_as_wanted_with_other_sampling_seeds() -> None:
    calls = plan_calls([row("one"), row("two")], PARAPHRASE.model_copy(update={"per_seed": 3}))
    assert [call.number for call in calls] == list(range(6))
    assert len({call.body["seed"] for call in calls}) == 6
    assert "one" in calls[2].body["messages"][0]["content"]
    assert "two" in calls[3].body["messages"][0]["content"]


# What becomes a row


def written(text: str, config: SyntheticConfig = PARAPHRASE, seed: Row | None = None, finish: str = "stop") -> Any:
    calls = plan_calls([seed or row("Where is my order of last week?")], config)
    return write_rows(calls, {0: Answer(text, finish)}, config)


def test_a_paraphrase_takes_the_place_of_the_last_question() -> None:
    turns = (
        Message("system", "Be kind."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Where is it?"),
        Message("assistant", "On its way."),
    )
    seed = Row(turns, "a:1", {"topic": "orders"})
    (made,) = written('<think>hm</think>"Could you tell me how far my parcel has come?"', seed=seed).rows
    assert [m.content for m in made.messages[:3]] == ["Be kind.", "Hi", "Hello"]
    assert made.messages[3].content == "Could you tell me how far my parcel has come?"
    assert [m.train for m in made.messages if m.role == "assistant"] == [False, True], "earlier turns are learned once"
    assert made.tags == {"topic": "orders", "source": "synthetic", "teacher": "big", "seed_row": seed.hash}


def test_a_generated_pair_is_found_in_chatter() -> None:
    text = 'Sure! {"note": 1}\n```json\n{"question": "Is the shop open?", "answer": "From nine."}\n```'
    (made,) = written(text, GENERATE).rows
    assert [m.content for m in made.messages] == ["Is the shop open?", "From nine."]


@pytest.mark.parametrize(
    ("text", "reason", "config"),
    [
        ("  ", "empty", PARAPHRASE),
        ("where is my ORDER of last week? ", "copy_of_seed", PARAPHRASE),
        ("Where is my order, of last week!", "copy_of_seed", PARAPHRASE),
        ("Where <|im_end|> is it", "special_token", PARAPHRASE),
        ("word " * 400, "too_long", PARAPHRASE),
        ("I am sorry, I cannot.", "not_json", GENERATE),
        ('{"question": "x"}', "not_json", GENERATE),
        ('{"question": "x", "answer": 5}', "not_json", GENERATE),
        ('{"question": "x", "answer": "y"', "not_json", GENERATE),
        ('{"question": "Where is my order of last week?", "answer": "y"}', "copy_of_seed", GENERATE),
        ("{" * 100_000, "not_json", GENERATE),
    ],
)
def test_what_cannot_be_used_is_listed_with_its_reason(text: str, reason: str, config: SyntheticConfig) -> None:
    found = written(text, config)
    assert found.rows == []
    assert found.reasons == {reason: 1}
    assert found.failures[0]["call"] == 0


def test_a_cut_answer_a_missing_one_and_a_second_of_the_same_are_left_out() -> None:
    calls = plan_calls([row("Where is my order?")], PARAPHRASE.model_copy(update={"per_seed": 4}))
    text = "How far has my parcel come?"
    answers = {0: Answer(text, "stop"), 1: Answer(f" {text.upper()}", "stop"), 2: Answer(text, "length"), 3: "HTTP 500"}
    found = write_rows(calls, answers, PARAPHRASE)
    assert len(found.rows) == 1
    assert found.reasons == {"copy_of_another": 1, "cut": 1, "no_answer": 1}


def test_similarity_is_of_words() -> None:
    assert similarity("", "") == 1.0
    assert similarity("a b", "c d") == 0.0
    assert similarity("a b c", "B, c d") == 0.5
    assert find_pair("[1]") is None


# A teacher that misbehaves


def teacher_of(answer: Callable[[httpx.Request], httpx.Response], waits: list[float] | None = None) -> Teacher:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return Teacher("http://teacher/v1/", "secret", client, sleep=(waits if waits is not None else []).append)


def completion(text: str, finish: str = "stop") -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": text}, "finish_reason": finish}]})


def calls(count: int) -> list[Call]:
    return plan_calls([row(f"question {i}") for i in range(count)], PARAPHRASE)


def test_a_busy_teacher_is_asked_again_when_it_says() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 1:
            return httpx.Response(429, headers={"Retry-After": "9"})
        return httpx.Response(503) if len(seen) == 2 else completion("fine")

    waits: list[float] = []
    assert teacher_of(answer, waits).ask(calls(1)[0]) == Answer("fine", "stop")
    assert waits == [9.0, 2.0]
    assert str(seen[0].url) == "http://teacher/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}']
)
def test_an_answer_that_is_no_completion_is_no_answer(body: bytes) -> None:
    with pytest.raises(NoAnswer):
        teacher_of(lambda _: httpx.Response(200, content=body)).ask(calls(1)[0])


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_stops_at_once(status: int) -> None:
    with pytest.raises(InvalidConfig, match="'big'"):
        ask_all(calls(100), teacher_of(lambda _: httpx.Response(status, text="no")), {}, lambda _: None)


def test_a_redirect_is_not_followed() -> None:
    """The address was allowed by whoever runs the platform, not where it points."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"Location": "http://169.254.169.254/"})

    with pytest.raises(NoAnswer, match="307"):
        teacher_of(answer).ask(calls(1)[0])
    assert asked == ["teacher"]


def test_a_run_that_died_goes_on_where_it_was() -> None:
    asked: list[str] = []
    saved: dict[int, Answer] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        if len(saved) >= BATCH:
            raise httpx.ConnectError("gone")
        asked.append(json.loads(request.content)["messages"][0]["content"])
        return completion("fine")

    with pytest.raises(PayloadFailed, match="none of 18 calls") as error:
        ask_all(calls(50), teacher_of(answer), {}, saved.update)
    assert error.value.retry_helps
    assert sorted(saved) == list(range(BATCH))
    found = ask_all(calls(50), teacher_of(lambda _: completion("later")), saved, saved.update)
    assert sorted(found) == list(range(50))
    assert len(asked) == BATCH
    assert found[0] == Answer("fine", "stop")
    assert found[49] == Answer("later", "stop")


def test_calls_that_are_refused_one_by_one_do_not_stop_the_others() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, text="too long") if b"question 0" in request.content else completion("fine")

    found = ask_all(calls(1) + calls(3)[1:], teacher_of(answer), {}, lambda _: None)
    assert [type(found[i]) for i in range(3)] == [str, Answer, Answer]
    assert ask_all(calls(1), teacher_of(answer), {}, lambda _: None) == {0: "HTTP 400: too long"}


# The settings


def test_only_allowed_teachers_with_the_keys_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}).teachers == {"http://127.0.0.1:8100/v1": None}
    env = {"FTPLATFORM_TEACHERS": "https://one.example/v1/ ONE_KEY, http://two:9/v1", "ONE_KEY": "k1"}
    settings = load_settings(env)
    assert settings.teachers == {"https://one.example/v1": "k1", "http://two:9/v1": None}
    assert "k1" not in repr(settings)
    for wrong in ("two:9/v1", "http://a A B", "http://a MISSING"):
        with pytest.raises(InvalidConfig, match="FTPLATFORM_TEACHERS"):
            load_settings({"FTPLATFORM_TEACHERS": wrong})


# The asset


@contextmanager
def fake_teacher(reply: Callable[[str], str]) -> Iterator[tuple[str, list[str]]]:
    """An OpenAI-compatible server that answers sensibly; yields (address, prompts it was asked)."""
    prompts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompts.append(body["messages"][0]["content"])
            text = reply(prompts[-1])
            choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
            data = json.dumps({"choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", prompts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reworded(prompt: str) -> str:
    ticket = prompt.rpartition("Ticket number ")[2].partition(":")[0]
    return f"Someone writes in about case {ticket}; could you have a look and sort it"


def files(url: str, **synthetic: Any) -> dict[str, bytes | str]:
    config = {"url": url, "model": "big", "seeds": 12, **synthetic}
    return {"rows.jsonl": chat_rows(60), "dataset.yaml": dataset_yaml(synthetic=config)}


def run(bench: Bench) -> Any:
    return bench.run(assets.ON_DEMAND, str(KEY))


def uploaded(bench: Bench) -> list[dict[str, Any]]:
    newest = bench.parts.catalog.datasets.get_upload(KEY)
    assert newest["origin"] == "synthetic"
    (file,) = [file for file in newest["files"] if file["name"] == "synthetic.jsonl"]
    return [json.loads(line) for line in bench.parts.store.get_bytes(file["digest"]).splitlines()]


def test_paraphrases_become_an_upload_that_passes_and_stands_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_teacher(reworded) as (url, prompts):
        monkeypatch.setenv("FTPLATFORM_TEACHERS", url)
        bench = Bench()
        assert bench.data_run(str(KEY), files(url)).success
        held_out = {
            json.loads(line)["messages"][0]["content"]
            for split in ("validation", "test")
            for line in bench.parts.store.get_bytes(_splits(bench)[split]).splitlines()
        }
        assert run(bench).success
        assert len(prompts) == 12
        assert not any(question in prompt for prompt in prompts for question in held_out), "no held-out row is a seed"
        rows = uploaded(bench)
        assert len(rows) == 12
        assert {row["tags"]["source"] for row in rows} == {"synthetic"}
        upload = bench.parts.catalog.datasets.get_upload(KEY)
        assert [file["name"] for file in upload["files"]] == ["dataset.yaml", "rows.jsonl", "synthetic.jsonl"]
        done = bench.run(assets.DATA, str(KEY), {"ft/upload": str(upload["seq"])})
        assert done.success, bench.failure(done)
        sides = {
            name: sum(b'"source":"synthetic"' in line for line in bench.parts.store.get_bytes(digest).splitlines())
            for name, digest in _splits(bench).items()
        }
        assert sides == {"train": 12, "validation": 0, "test": 0}
        assert run(bench).success
        assert len(prompts) == 12, "the same seeds and settings: nothing is asked twice, synthetic rows are no seeds"
        assert bench.parts.catalog.datasets.get_upload(KEY)["seq"] == upload["seq"]


def _splits(bench: Bench) -> dict[str, str]:
    document = bench.parts.store.get_doc(f"latest/curated_dataset/{KEY}")
    found: dict[str, str] = document["manifest"]["splits"]
    return found


def test_generated_pairs_that_the_importer_would_refuse_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(prompt: str) -> str:
        number = sum(map(ord, prompt)) % 1000
        pair = {"question": f"Something new about case {number} and nothing else", "answer": "delivery"}
        return "I cannot" if number % 3 == 0 else json.dumps(pair)

    with fake_teacher(reply) as (url, _):
        monkeypatch.setenv("FTPLATFORM_TEACHERS", url)
        bench = Bench()
        assert bench.data_run(str(KEY), files(url, kind="generate")).success
        result = run(bench)
        assert result.success, bench.failure(result)
    manifest = bench.parts.store.get_doc(f"latest/synthetic_rows/{KEY}")["manifest"]
    assert manifest["rows"] == len(uploaded(bench))
    assert manifest["rows"] + sum(manifest["dropped"].values()) == manifest["calls"] == 12
    failures = bench.parts.store.get_bytes(manifest["failures"]).splitlines()
    assert len(failures) == sum(manifest["dropped"].values())


def test_what_costs_too_much_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_teacher(reworded) as (url, prompts):
        monkeypatch.setenv("FTPLATFORM_TEACHERS", url)
        monkeypatch.setenv("FTPLATFORM_TEACHER_CALLS", "11")
        bench = Bench()
        assert bench.data_run(str(KEY), files(url)).success
        assert "12 seeds x 1 make 12 calls" in bench.failure(run(bench))
        assert prompts == []


def test_a_teacher_nobody_allowed_is_not_called() -> None:
    with fake_teacher(reworded) as (url, prompts):
        bench = Bench()
        assert bench.data_run(str(KEY), files(url)).success
        assert "FTPLATFORM_TEACHERS" in bench.failure(run(bench))
        assert prompts == []


def test_a_newer_upload_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_teacher(reworded) as (url, _):
        monkeypatch.setenv("FTPLATFORM_TEACHERS", url)
        bench = Bench()
        assert bench.data_run(str(KEY), files(url)).success
        newer = bench.push(str(KEY), {**files(url), "more.jsonl": chat_rows(5, start=100)})
        assert f"upload {newer} waits" in bench.failure(run(bench))
        bench.parts.catalog.datasets.judge(newer, "refused", "bad", None)
        assert run(bench).success
    upload = bench.parts.catalog.datasets.get_upload(KEY)
    assert [file["name"] for file in upload["files"]] == ["dataset.yaml", "rows.jsonl", "synthetic.jsonl"]


def test_a_teacher_of_gibberish_uploads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_teacher(lambda _: "zxq") as (url, _):
        monkeypatch.setenv("FTPLATFORM_TEACHERS", url)
        bench = Bench()
        assert bench.data_run(str(KEY), files(url, kind="generate")).success
        assert "'not_json': 12" in bench.failure(run(bench))
    assert len(bench.parts.catalog.datasets.list_uploads(KEY)) == 1


def test_the_platforms_own_server_is_a_teacher(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model: its answers are noise, but every part of the way is the real one."""
    import serving_support

    monkeypatch.setattr(serving_support, "CONTEXT", 2048)
    made = serving_support.make_bench(tmp_path / "serving")
    with serving_support.serve(made) as server:
        server.pool.load(made.served("base", kind="base", weights=made.base))
        url = f"{server.url}/v1"
        monkeypatch.setenv("FTPLATFORM_TEACHERS", url)
        bench = Bench()
        settings = {"model": "base", "seeds": 6, "max_tokens": 400, "temperature": 1.5}
        assert bench.data_run(str(KEY), files(url, **settings)).success
        result = run(bench)
        assert result.success, bench.failure(result)
        manifest = bench.parts.store.get_doc(f"latest/synthetic_rows/{KEY}")["manifest"]
        assert manifest["rows"] == len(uploaded(bench)) > 0
        assert manifest["rows"] + sum(manifest["dropped"].values()) == manifest["calls"] == 6
        sequence = bench.parts.catalog.datasets.get_upload(KEY)["seq"]
        done = bench.run(assets.DATA, str(KEY), {"ft/upload": str(sequence)})
        assert done.success, bench.failure(done)

        assert bench.data_run(str(KEY), files(url, kind="generate", **{**settings, "max_tokens": 40})).success
        assert "nothing is uploaded" in bench.failure(run(bench))
