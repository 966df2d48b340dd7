"""Scores already known, by everything that could change one: weights, adapter, items, terms, code. Control plane.

A model is scored on a suite once, whoever asks: the base for all that trains on it, the champion for every candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ftplatform.core.digests import digest_json
from ftplatform.core.errors import NotFound, PayloadFailed
from ftplatform.core.manifests import SuiteScore
from ftplatform.core.payload import EvalSpec, ModelSpec, PayloadResult, ScoreRequest, StoreAddress, SuiteSpec
from ftplatform.store.base import ObjectStore
from ftplatform.store.cache import cache_key, code_digest

STAGE = "score"
CODE = (
    "evaluation/__main__",
    "evaluation/items",
    "evaluation/runner",
    "evaluation/runner_choices",
    "evaluation/runner_model",
    "evaluation/runner_reward",
    "evaluation/runner_task",
)
"""What runs in the payload; not the gate and the statistics, which read scores, nor the items, which are inputs."""


def score_request(model: ModelSpec, suite: SuiteSpec) -> ScoreRequest:
    """The request with its cache key; names of models and suites are not in the key, so equal bytes share a score."""
    inputs: dict[str, Any] = {
        "base": model.weights if model.kind == "full" else model.base_weights,
        "adapter": model.weights if model.kind == "lora" else None,
        "items": suite.items,
        "kind": suite.kind,
        "max_new_tokens": suite.max_new_tokens if suite.kind == "exact_match" else None,
    }
    if model.scores:
        inputs["scores"] = True
    return ScoreRequest(model=model, suite=suite, cache=cache_key(STAGE, code=code_digest(*CODE), inputs=inputs))


def score_requests(models: Iterable[ModelSpec], suites: Sequence[SuiteSpec]) -> tuple[ScoreRequest, ...]:
    """Every model on every suite."""
    return tuple(score_request(model, suite) for model in models for suite in suites)


def missing_scores(
    store: ObjectStore, requests: Iterable[ScoreRequest], *, address: StoreAddress, threads: int
) -> EvalSpec | None:
    """The payload that scores what is not known yet, each distinct score once; None when all is known."""
    wanted = {request.cache: request for request in requests if store.find_doc(_doc(request)) is None}
    if not wanted:
        return None
    return EvalSpec(key=digest_json(sorted(wanted)), store=address, requests=tuple(wanted.values()), threads=threads)


def record_scores(store: ObjectStore, spec: EvalSpec, result: PayloadResult) -> None:
    """Make the payload's scores known; all of them are checked before the first becomes visible.

    Raises:
        PayloadFailed: the payload did not end with ``done``, or a score is absent or does not cover the suite.
    """
    if result.outcome != "done":
        raise PayloadFailed(f"the evaluation ended with {result.outcome}: {result.message}")
    found: dict[str, dict[str, Any]] = {}
    for request in spec.requests:
        digest = result.artifacts.get(request.cache)
        if digest is None:
            raise PayloadFailed(f"the evaluation gave no score for {request.model.name} on {request.suite.name}")
        scored = store.get_json(digest)
        if not scored["items"] or scored["n"] != len(scored["items"]) or scored["suite"] != request.suite.name:
            raise PayloadFailed(
                f"the scores of {request.model.name} on {request.suite.name} are {len(scored['items'])} items of suite "
                f"{scored['suite']!r} and claim to be {scored['n']}"
            )
        found[_doc(request)] = {"n": scored["n"], "score": scored["score"], "items": digest}
    for name, document in found.items():
        store.put_doc(name, document)


def load_scores(store: ObjectStore, requests: Iterable[ScoreRequest]) -> dict[str, dict[str, SuiteScore]]:
    """Model name -> suite name -> score.

    Raises:
        NotFound: a score is not known yet.
    """
    scores: dict[str, dict[str, SuiteScore]] = {}
    for request in requests:
        document = store.find_doc(_doc(request))
        if document is None:
            raise NotFound(
                f"{request.model.name} was not scored on {request.suite.name} yet: run the evaluation payload first"
            )
        scores.setdefault(request.model.name, {})[request.suite.name] = SuiteScore(suite=request.suite.name, **document)
    return scores


def _doc(request: ScoreRequest) -> str:
    return f"cache/{STAGE}/{request.cache}"
