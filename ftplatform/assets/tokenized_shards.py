"""``tokenized_shards``: packed token shards with loss masks, made once per content."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.assets.tokenizing import chat_format
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.manifests import TokenizedShards
from ftplatform.core.plan import Plan
from ftplatform.core.rows import rows_from_jsonl
from ftplatform.data.pack import pack
from ftplatform.data.replay import with_replay
from ftplatform.data.supervision import check_supervision, learned_markdown
from ftplatform.data.tables import length_histogram
from ftplatform.data.tokenize import tokenize_rows
from ftplatform.partitions import lines
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts
from ftplatform.store.cache import cache_key, cached, code_digest

SPLITS = ("train", "validation")


@dg.asset(
    partitions_def=lines,
    group_name="training",
    owners=["team:post-training"],
    kinds={"huggingface", "numpy"},
    check_specs=[
        *check_specs(
            "tokenized_shards",
            lines,
            {
                "rows_supervised": "every row has tokens that carry loss, counted on the token ids",
                "stop_token_trained": "the token that ends an answer is learned in every row",
            },
        ),
        *check_specs(
            "tokenized_shards",
            lines,
            {
                "truncation": "rows longer than the recipe's length, by its policy",
            },
            blocking=False,
        ),
    ],
)
def tokenized_shards(context: dg.AssetExecutionContext, platform: Platform, training_plan: Plan) -> Iterator[object]:
    """The rows as the model reads them: rendered by its chat template, packed, with the loss on the answers only."""
    with line_run(context, platform) as run:
        parts, plan = run.parts, training_plan
        inputs = {
            "tenant": run.line.dataset.tenant,
            "splits": {name: plan.curated.splits[name] for name in SPLITS},
            "base": plan.base.weights,
            "max_length": plan.training.max_length,
            "too_long": plan.training.too_long,
            "replay": [
                plan.replay,
                plan.base.replay if plan.replay else None,
                plan.training.seed if plan.replay else None,
            ],
        }
        code = code_digest("data/tokenize", "data/pack", "data/supervision", "data/replay", "data/chat_format")
        key = cache_key("tokenize", code=code, inputs=inputs)
        made, reused = cached(parts.store, "tokenize", key, lambda: _work(parts, plan), needs=_objects)
        checks = [CheckResult(**check) for check in made["checks"]]
        for check in checks:
            yield to_dagster(check)
        if stopped := blocking(checks):
            raise dg.Failure(description="; ".join(f"{c.name}: {c.message}" for c in stopped), allow_retries=False)
        manifest = TokenizedShards.model_validate(made["manifest"])
        if reused:
            context.log.info(
                "Same rows, tokenizer, template and settings: the shards are there already, nothing was tokenized."
            )
        yield result(
            manifest,
            {
                "tokens": manifest.tokens["train"],
                "tokens that carry loss": manifest.supervised["train"],
                "sequences": manifest.sequences["train"],
                "fill": made["fill"],
                "learned text": dg.MetadataValue.md(made["learned"]),
                "lengths": picture(parts.store.get_bytes(made["lengths"]), "tokens per row"),
            },
            reused=reused,
        )


def _objects(made: dict[str, Any]) -> list[str]:
    return [*made["manifest"]["shards"].values(), made["lengths"]]


def _work(parts: Parts, plan: Plan) -> dict[str, Any]:
    text = chat_format(parts.store, plan.base.weights)
    length = plan.training.max_length
    rows = {name: rows_from_jsonl(parts.store.get_bytes(plan.curated.splits[name])) for name in SPLITS}
    if plan.replay:
        assert plan.base.replay is not None
        general = rows_from_jsonl(parts.store.get_bytes(plan.base.replay))
        rows["train"] = with_replay(rows["train"], general, plan.replay, plan.training.seed)
    tokenized = {name: tokenize_rows(split, text.tokenizer, text.template, length) for name, split in rows.items()}
    packed = {name: pack(found.rows, length, text.pad_id) for name, found in tokenized.items()}
    checks = check_supervision(tokenized["train"], text.stop_ids, plan.training.too_long)
    manifest = TokenizedShards(
        shards={name: parts.store.put_bytes(shard.to_bytes()) for name, shard in packed.items()},
        sequences={name: shard.sequences for name, shard in packed.items()},
        tokens={name: shard.tokens for name, shard in packed.items()},
        supervised={name: shard.supervised for name, shard in packed.items()},
        dropped={name: len(found.too_long) for name, found in tokenized.items()},
        max_length=length,
        template=text.template.digest,
        tokenizer=text.tokenizer_digest,
    )
    return {
        "manifest": manifest.model_dump(mode="json"),
        "checks": [{name: getattr(check, name) for name in check.__slots__} for check in checks],
        "fill": packed["train"].fill,
        "learned": learned_markdown(tokenized["train"].rows, text.tokenizer),
        "lengths": parts.store.put_bytes(length_histogram(tokenized["train"].lengths, "tokens per row", limit=length)),
    }
