"""Scores models on suites with lm-eval, one load per distinct set of base weights. Payload side.

Every item gets 0 or 1. lm-eval's request cache is not used: it ignores the weights, so a second adapter would get the
first one's scores; what was scored before is known by digest in ``score_cache``.
"""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import lm_eval
import torch

from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import EvalSpec, ModelSpec, PayloadResult, ScoreRequest, SuiteSpec
from ftplatform.evaluation.items import Item, parse_items
from ftplatform.evaluation.runner_model import ChatLM, LoadedBase
from ftplatform.evaluation.runner_reward import LoadedRewards, score_pairs
from ftplatform.evaluation.runner_task import METRIC, SuiteTask
from ftplatform.store.adapters import peft_type
from ftplatform.store.base import ObjectStore
from ftplatform.store.payload_io import PayloadIO

LOAD_SILENCE = 1800.0
"""Seconds a load may take without a sign of life: 140 GB of weights from a cold object store at 100 MB/s is 1400."""


def score_all(spec: EvalSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    """Score every request; ``artifacts`` maps each request's cache key to the object with its items' scores."""
    started = time.monotonic()
    torch.set_num_threads(spec.threads)
    artifacts: dict[str, str] = {}
    groups = _by_load(tuple(request for request in spec.requests if not request.model.scores), store)
    items = {
        r.suite.items: parse_items(store.get_bytes(r.suite.items), r.suite.kind, r.suite.name) for r in spec.requests
    }
    for (weights, _), requests in groups.items():
        with tempfile.TemporaryDirectory(prefix="models-", dir=io.folder) as folder:
            io.heartbeat(silent_for=LOAD_SILENCE)
            loaded = _load(store, weights, requests, Path(folder), io)
        for request in requests:
            with loaded.using(request.model.weights if request.model.kind == "lora" else None) as lm:
                scored = score_suite(lm, request.suite, items[request.suite.items])
            artifacts[request.cache] = store.put_json(scored)
            io.progress(
                f"{request.model.name} on {request.suite.name}: {scored['score']:.1%} of {scored['n']} items",
                len(artifacts),
                len(spec.requests),
            )
        del loaded, lm
        gc.collect()
    for request in spec.requests:
        if request.model.scores:
            artifacts[request.cache] = store.put_json(_reward(request, items[request.suite.items], store, io))
    seconds = time.monotonic() - started
    return PayloadResult(
        outcome="done",
        message=f"Scored {len(spec.requests)} model and suite pairs with {len(groups)} loads in {seconds:.1f} s.",
        artifacts=artifacts,
        numbers={"seconds": round(seconds, 3), "loads": len(groups), "requests": len(spec.requests)},
    )


def _reward(request: ScoreRequest, items: list[Item], store: ObjectStore, io: PayloadIO) -> dict[str, Any]:
    model = request.model
    if model.weights is None:
        raise PayloadFailed(f"reward model {model.name!r} names no weights; the spec is wrong, a retry does not help")
    with tempfile.TemporaryDirectory(prefix="reward-", dir=io.folder) as folder:
        io.heartbeat(silent_for=LOAD_SILENCE)
        base = store.fetch_tree(model.base_weights, Path(folder) / "base")
        loaded = LoadedRewards(model, base, store.fetch_tree(model.weights, Path(folder) / "weights"))
    scored = score_pairs(loaded, request.suite, items, io.heartbeat)
    io.progress(f"{model.name} on {request.suite.name}: {scored['score']:.1%} of {scored['n']} pairs")
    return scored


def _by_load(requests: tuple[ScoreRequest, ...], store: ObjectStore) -> dict[tuple[str, bool], list[ScoreRequest]]:
    """Requests by the weights that must be in memory for them, and whether IA3 is on those: PEFT does not put LoRA and IA3
    on one model.
    """
    groups: dict[tuple[str, bool], list[ScoreRequest]] = {}
    for request in requests:
        adapter = request.model.weights if request.model.kind == "lora" else None
        factors = adapter is not None and peft_type(store, adapter) == "IA3"
        groups.setdefault((_in_memory(request.model), factors), []).append(request)
    return groups


def _in_memory(model: ModelSpec) -> str:
    if model.kind == "base":
        return model.base_weights
    if model.weights is None:
        raise PayloadFailed(
            f"model {model.name!r} is {model.kind} but names no weights; the spec is wrong, a retry does not help"
        )
    return model.weights if model.kind == "full" else model.base_weights


def _load(store: ObjectStore, weights: str, requests: list[ScoreRequest], folder: Path, io: PayloadIO) -> LoadedBase:
    adapters = {
        request.model.weights: store.fetch_tree(request.model.weights, folder / f"adapter-{request.model.weights[:12]}")
        for request in requests
        if request.model.kind == "lora" and request.model.weights
    }
    base = store.fetch_tree(weights, folder / f"base-{weights[:12]}")
    io.progress(f"Loading {base.name} and {len(adapters)} adapters")
    io.heartbeat(silent_for=LOAD_SILENCE)
    return LoadedBase(base, adapters, io.heartbeat)


def score_suite(lm: ChatLM, suite: SuiteSpec, items: list[Item]) -> dict[str, Any]:
    """``{"suite", "n", "score", "too_long", "items": [{"id", "score", "output"?}]}`` in the suite's order.

    An item that leaves no room for its answer in the model's context scores 0 and is counted in ``too_long``: lm-eval
    would cut the start of the prompt off and score an answer to another question.
    """
    lengths = _tokens_needed(lm, suite, items)
    fitting = [item for item in items if lengths[item.id] <= lm.max_length]
    outcomes: dict[str, dict[str, Any]] = {item.id: {"id": item.id, "score": 0} for item in items}
    if fitting:
        lm.fit_batch(max(lengths[item.id] for item in fitting))
        task = SuiteTask(suite, fitting)
        found = lm_eval.evaluate(
            lm,
            {"tasks": {suite.name: task}, "groups": {}},
            apply_chat_template=True,
            bootstrap_iters=0,
            log_samples=True,
        )
        samples = found["samples"][suite.name]
        if sorted(sample["doc"]["id"] for sample in samples) != sorted(item.id for item in fitting):
            raise PayloadFailed(
                f"suite {suite.name!r}: lm-eval gave {len(samples)} results for {len(fitting)} items, or other items"
            )
        for sample in samples:
            outcome = outcomes[sample["doc"]["id"]]
            # int() because lm-eval's metrics may be numpy floats, which JSON refuses.
            outcome["score"] = int(sample[METRIC[suite.kind]])
            if suite.kind == "exact_match":
                outcome["output"] = sample["filtered_resps"][0].strip()
    scores = [outcomes[item.id]["score"] for item in items]
    return {
        "suite": suite.name,
        "n": len(items),
        "score": sum(scores) / len(scores),
        "too_long": len(items) - len(fitting),
        "items": [outcomes[item.id] for item in items],
    }


def _tokens_needed(lm: ChatLM, suite: SuiteSpec, items: list[Item]) -> dict[str, int]:
    """Item id -> tokens of its prompt with the longest answer it must hold."""
    texts: list[str] = []
    owners: list[str] = []
    for item in items:
        prompt = lm.apply_chat_template([turn.model_dump() for turn in item.messages])
        for choice in item.choices or ("",):
            texts.append(prompt + choice)
            owners.append(item.id)
    generated = suite.max_new_tokens if suite.kind == "exact_match" else 0
    needed: dict[str, int] = {}
    for owner, length in zip(owners, lm.lengths(texts), strict=True):
        needed[owner] = max(needed.get(owner, 0), length + generated)
    return needed
