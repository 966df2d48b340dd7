"""``base_model`` and ``base_model_scores``: a pinned base model, made, copied or fetched once, and its scores on every suite."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg

from ftplatform.assets.base_sources import make_weights
from ftplatform.assets.lost import surviving_eviction
from ftplatform.assets.payloads import run_payload
from ftplatform.assets.reporting import check_specs, readable_failures, result, to_dagster
from ftplatform.assets.tokenizing import chat_format, tree_file
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import BaseKey
from ftplatform.core.manifests import BaseModel, BaseScores
from ftplatform.core.payload import ModelSpec
from ftplatform.core.rows import Row, rows_to_jsonl
from ftplatform.data.rendering.chat_format import ChatFormat
from ftplatform.data.rendering.template_check import check_template
from ftplatform.data.starter_text import replay
from ftplatform.data.tables import markdown_table
from ftplatform.data.tokens.tokenize import control_tokens
from ftplatform.evaluation.margins import MANDATORY_SUITES
from ftplatform.evaluation.score_cache import load_scores, missing_scores, record_scores, score_requests
from ftplatform.evaluation.suite_files import publish_suite
from ftplatform.partitions import bases
from ftplatform.planning.shapes import ModelShape
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts

REPLAY_ROWS = 2000


@dg.asset(
    partitions_def=bases,
    group_name="base_models",
    owners=["team:post-training"],
    kinds={"huggingface", "pytorch"},
    pool="training",
    check_specs=check_specs(
        "base_model",
        bases,
        {
            "safetensors_only": "weights are safetensors and nothing in the folder would run code when loaded",
            "complete": "configuration, tokenizer and chat template are there",
            "chat_template": "the template shows every text, tells answers apart and ends them with a stop token",
        },
    ),
)
def base_model(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[object]:
    """A base model pinned by content: the starter built on the spot, a local Hugging Face folder, or a hub revision."""
    with readable_failures(), surviving_eviction(context, platform.parts):
        parts, key = platform.parts, BaseKey.parse(context.partition_key)
        source = parts.catalog.bases.source(key)
        weights, reused = make_weights(context, parts, key, source)
        checks = _checks(parts, weights)
        for check in checks:
            yield to_dagster(check)
        if stopped := blocking(checks):
            raise dg.Failure(description=f"{key}: " + "; ".join(c.message for c in stopped), allow_retries=False)
        shape = ModelShape.from_config(json.loads(tree_file(parts.store, weights, "config.json")))
        starter = source["kind"] == "starter"
        manifest = BaseModel(
            slug=key.slug,
            revision=key.revision,
            weights=weights,
            replay=parts.store.put_bytes(_replay(source["seed"])) if starter else None,
            parameters=shape.parameters,
            architecture=shape.architecture,
            max_length=shape.max_length,
            vocabulary=shape.vocabulary,
        )
        parts.catalog.serving.want(
            str(key),
            model=key.slug,
            kind="base",
            weights=weights,
            base_weights=weights,
            template=chat_format(parts.store, weights).template.digest,
            fingerprint=None,
        )
        parts.catalog.serving.set_route(key.slug, [(str(key), 1.0)], actor="base_model")
        yield result(manifest, {**manifest.model_dump(), "source": source}, reused=reused)


@dg.asset(
    partitions_def=bases,
    group_name="base_models",
    owners=["team:post-training"],
    kinds={"huggingface"},
    pool="training",
)
def base_model_scores(context: dg.AssetExecutionContext, platform: Platform, base_model: BaseModel) -> Iterator[object]:
    """The base model's scores on the mandatory suites: what every model trained on it is compared with."""
    with readable_failures(), surviving_eviction(context, platform.parts):
        parts = platform.parts
        model = ModelSpec(name="base", kind="base", base_weights=base_model.weights)
        suites = [publish_suite(parts.store, name).spec for name in MANDATORY_SUITES]
        requests = score_requests([model], suites)
        spec = missing_scores(parts.store, requests, address=parts.settings.store, threads=parts.settings.threads)
        if spec is not None:
            record_scores(parts.store, spec, run_payload(context, parts, spec, stage="evaluation", job=base_model.key))
        scores = tuple(load_scores(parts.store, requests)["base"].values())
        manifest = BaseScores(base=base_model.key, weights=base_model.weights, scores=scores)
        table: list[dict[str, Any]] = [{"suite": s.suite, "items": s.n, "score": s.score} for s in scores]
        yield result(manifest, {"scores": dg.MetadataValue.md(markdown_table(table))}, reused=spec is None)


def _replay(seed: int) -> bytes:
    rows = replay(REPLAY_ROWS, seed)
    return rows_to_jsonl(
        Row.from_json({"messages": row["messages"], "source": f"starter:{number}"})
        for number, row in enumerate(rows, 1)
    )


def _checks(parts: Parts, weights: str) -> list[CheckResult]:
    names = [file.path for file in parts.store.tree(weights).files]
    config = json.loads(tree_file(parts.store, weights, "config.json")) if "config.json" in names else {}
    unsafe = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py"))]
    if "auto_map" in config:
        unsafe.append("config.json: auto_map asks for code of its own")
    needed = ("config.json", "tokenizer.json", "tokenizer_config.json")
    missing = [name for name in needed if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors")
    text, template = "", []
    if not missing:
        try:
            template = [_template(chat_format(parts.store, weights))]
        except InvalidConfig as error:
            text = str(error)
    return [
        CheckResult(
            "safetensors_only", not unsafe, f"not accepted: {', '.join(unsafe)}" if unsafe else "only data files"
        ),
        CheckResult(
            "complete",
            not missing and not text,
            text or (f"missing: {', '.join(missing)}" if missing else f"{len(names)} files"),
        ),
        *template,
    ]


def _template(text: ChatFormat) -> CheckResult:
    """All findings about the template as one check: an error stops the base, a warning is shown."""
    template = text.template
    found = check_template(
        template.source,
        template.special_tokens,
        template.stop_tokens,
        control_tokens(text.tokenizer, template),
    )
    failed = [check for check in found if not check.passed]
    stopped = blocking(failed)
    known = f"rendered as {text.family}" if text.family else "no template of a family we know"
    return CheckResult(
        "chat_template",
        not stopped,
        "; ".join(f"{c.name}: {c.message}" for c in stopped)
        or f"{known}, {len(found) - len(failed)} of {len(found)} checks without a remark",
        rows=[{"check": c.name, "severity": c.severity, "what": c.message} for c in failed],
    )
