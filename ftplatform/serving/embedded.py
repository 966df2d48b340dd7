"""The embedded engine's HTTP door: OpenAI's chat and text completions, vLLM's loading of adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ftplatform.core.errors import FtError
from ftplatform.serving.embedded_answers import DONE, Answer, error_event
from ftplatform.serving.embedded_errors import ApiError, bad_request, internal, load_refused, model_not_found
from ftplatform.serving.embedded_pool import Pool
from ftplatform.serving.embedded_protocol import ChatRequest, CompletionRequest, LoadRequest, UnloadRequest
from ftplatform.serving.embedded_scheduler import Scheduler
from ftplatform.serving.embedded_sequence import Delta, Sampling, Sequence
from ftplatform.serving.embedded_served import Served
from ftplatform.serving.reconciler import Reconciler


@dataclass(frozen=True, slots=True)
class Deps:
    scheduler: Scheduler
    pool: Pool
    reconciler: Reconciler | None = None


def make_app(deps: Deps) -> FastAPI:
    """The application; its lifespan starts and ends the scheduler's and the reconciler's threads."""
    app = FastAPI(title="ftplatform embedded engine", lifespan=_lifespan(deps), openapi_url=None)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)
    pool = deps.pool

    @app.get("/health")
    def health() -> JSONResponse:
        healthy = deps.scheduler.healthy
        state = {
            "status": "ok" if healthy else "engine thread died",
            "engine": deps.scheduler.state(),
            "serving": {
                served.name: {"weights": served.wanted.weights, "users": served.users} for served in pool.models()
            },
            "routes": {route.model: [list(target) for target in route.targets] for route in pool.routes()},
            "reconciler": deps.reconciler.state() if deps.reconciler else None,
        }
        return JSONResponse(state, 200 if healthy else 503)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [*map(_describe, pool.models()), *_describe_routes(pool)]}

    @app.get("/v1/models/{name}")
    def model(name: str) -> dict[str, Any]:
        entries: dict[str, dict[str, Any]] = {entry["id"]: entry for entry in models()["data"]}
        if name not in entries:
            raise model_not_found(name, sorted(entries))
        return entries[name]

    @app.post("/v1/load_lora_adapter")
    def load(body: LoadRequest) -> PlainTextResponse:
        bases = sorted({served.wanted.base_weights for served in pool.models() if served.wanted.kind != "full"})
        try:
            pool.load(body.wanted(bases))
        except FtError as error:
            raise load_refused(error) from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    def unload(body: UnloadRequest) -> PlainTextResponse:
        try:
            pool.unload(body.lora_name)
        except FtError as error:
            raise load_refused(error) from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        body.refuse_unsupported()
        logprobs = body.wanted_logprobs

        def prepare(served: Served) -> tuple[list[int], Sampling]:
            ids = served.codec.chat_ids([message.plain() for message in body.messages])
            return ids, body.sampling(
                len(ids), served.instance.room(served.adapter), body.wanted_tokens, None, logprobs
            )

        return await _answer(deps, request, body, "chat", prepare)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        body.refuse_unsupported()
        prompt = body.one_prompt()

        def prepare(served: Served) -> tuple[list[int], Sampling]:
            ids = served.codec.prompt_ids(prompt) if isinstance(prompt, str) else prompt
            if ids and not 0 <= min(ids) <= max(ids) < served.instance.vocabulary:
                raise bad_request(
                    f"prompt: token ids must lie between 0 and {served.instance.vocabulary - 1}", "prompt"
                )
            return ids, body.sampling(
                len(ids), served.instance.room(served.adapter), body.max_tokens, 16, body.logprobs
            )

        return await _answer(deps, request, body, "text", prepare)

    return app


async def _answer(
    deps: Deps, request: Request, body: ChatRequest | CompletionRequest, kind: Any,
    prepare: Callable[[Served], tuple[list[int], Sampling]],
) -> Response:  # fmt: skip
    served = deps.pool.acquire(body.model, body.user or request.headers.get("x-request-id"))
    events: asyncio.Queue[Delta] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def emit(delta: Delta) -> None:
        # RuntimeError: the loop has closed, so there is nobody left to tell.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, delta)

    try:
        ids, sampling = prepare(served)
        sequence = Sequence(served, ids, sampling, emit, body.stream)
    except BaseException:
        served.release()
        raise
    deps.scheduler.submit(sequence)
    answer = Answer(kind, served.name, served.codec, len(ids), sampling.logprobs is not None, body.return_token_ids)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return _Stream(sequence, _stream(events, answer, usage))
    delta = await _unless_gone(request, sequence, events)
    if delta is None:
        return Response(status_code=499)
    if delta.error is not None:
        raise delta.error
    return JSONResponse(answer.whole(delta))


class _Stream(StreamingResponse):
    """Server-sent events; a client that hangs up, even before the first byte, ends the work for it."""

    def __init__(self, sequence: Sequence, content: AsyncIterator[str]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._sequence = sequence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._sequence.cancelled = True


async def _stream(events: asyncio.Queue[Delta], answer: Answer, usage: bool) -> AsyncIterator[str]:
    if (first := answer.role()) is not None:
        yield first
    while True:
        delta = await events.get()
        if delta.error is not None:
            yield error_event(delta.error.body)
            return
        yield answer.chunk(delta)
        if delta.last:
            break
    if usage:
        yield answer.usage_chunk()
    yield DONE


async def _unless_gone(request: Request, sequence: Sequence, events: asyncio.Queue[Delta]) -> Delta | None:
    """The one event of an answer that is not streamed; None when the client hangs up first, which cancels the work."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answered, left = asyncio.ensure_future(events.get()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({answered, left}, return_when=asyncio.FIRST_COMPLETED)
        return answered.result() if answered.done() else None
    finally:
        sequence.cancelled = True
        answered.cancel()
        left.cancel()


def _lifespan(deps: Deps) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        deps.scheduler.start()
        if deps.reconciler:
            deps.reconciler.start()
        try:
            yield
        finally:
            # The reconciler first: it may be waiting for the scheduler in the middle of a load.
            if deps.reconciler:
                await asyncio.to_thread(deps.reconciler.close)
            await asyncio.to_thread(deps.scheduler.close)

    return lifespan


def _describe(served: Served) -> dict[str, Any]:
    wanted = served.wanted
    return {
        "id": wanted.name,
        "object": "model",
        "created": served.created,
        "owned_by": "ftplatform",
        "root": f"tree:{wanted.weights}",
        "parent": f"tree:{wanted.base_weights}" if wanted.kind == "lora" else None,
        "max_model_len": served.instance.room(served.adapter),
    }


def _describe_routes(pool: Pool) -> list[dict[str, Any]]:
    return [
        {"id": route.model, "object": "model", "created": 0, "owned_by": "ftplatform",
         "root": max(route.targets, key=lambda target: target[1])[0], "parent": None}
        for route in pool.routes()
    ]  # fmt: skip


def _error(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _answer_api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _error(error)


async def _answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or None
    return _error(bad_request(f"{place or 'body'}: {first['msg']}; found {first.get('input')!r:.200}", place))


async def _answer_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(
        ApiError(error.status_code, str(error.detail), code="not_found" if error.status_code == 404 else None)
    )


async def _answer_unexpected(_request: Request, _unexpected: Exception) -> JSONResponse:
    """The server logs the traceback; the client gets no part of it."""
    return _error(internal("the server failed; its log has the traceback"))
