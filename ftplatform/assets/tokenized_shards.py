"""``tokenized_shards``: packed token shards with loss masks, made once per content."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.reporting import check_specs, page, picture, result, to_dagster
from ftplatform.assets.tokenizing import SPLITS, make_shards
from ftplatform.assets.tokens_per_word import check_tokens_per_word
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import TokenizedShards
from ftplatform.core.plan import Plan
from ftplatform.data.tables import markdown_table
from ftplatform.partitions import lines
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts
from ftplatform.store.cache import cache_key, cached, code_digest


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
                "tokens_per_word": "no language costs many times the tokens of English; names better base models",
            },
            blocking=False,
        ),
    ],
)
def tokenized_shards(context: dg.AssetExecutionContext, platform: Platform, training_plan: Plan) -> Iterator[object]:
    """The rows as the model reads them: rendered by its chat template, packed, with the loss on the answers only."""
    with line_run(context, platform) as run:
        parts, plan = run.parts, training_plan
        made, reused = shards_of(parts, plan, run.line.dataset)
        languages = check_tokens_per_word(parts, plan)
        checks = [*(CheckResult(**check) for check in made["checks"]), languages]
        for check in checks:
            yield to_dagster(check)
        learned = {
            "learned text": dg.MetadataValue.md(made["learned"]),
            "learned text in colours": page(parts, made["page"], f"{run.line.dataset}/{run.job}", "learned.html"),
        }
        if stopped := blocking(checks):
            raise dg.Failure(
                description="; ".join(f"{c.name}: {c.message}" for c in stopped), metadata=learned, allow_retries=False
            )
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
                "layout": manifest.layout,
                "rows tokenized anew": made["tokenized"],
                **({"mix": dg.MetadataValue.md(markdown_table(made["mix"]))} if made["mix"] else {}),
                **learned,
                **({"tokens per word": dg.MetadataValue.md(markdown_table(languages.rows))} if languages.rows else {}),
                "lengths": picture(parts.store.get_bytes(made["lengths"]), "tokens per row"),
            },
            reused=reused,
        )


def shards_of(parts: Parts, plan: Plan, dataset: DatasetKey) -> tuple[dict[str, Any], bool]:
    """What ``make_shards`` gives for the plan, and whether it was there already."""
    inputs = {
        "tenant": dataset.tenant,
        "splits": {name: plan.curated.splits[name] for name in SPLITS},
        "base": plan.base.weights,
        "max_length": plan.training.max_length,
        "too_long": plan.training.too_long,
        "replay": [
            plan.replay,
            plan.base.replay if plan.replay else None,
            plan.training.seed if plan.replay else None,
        ],
        "mix": [plan.mix.model_dump(mode="json"), plan.training.seed] if plan.mix else None,
    }
    code = code_digest(
        "data/tokens/work",
        "data/tokens/checks",
        "data/mix",
        "data/replay",
        "data/rendering/supervision",
        "data/rendering/learned",
    )
    # A row's tokens depend on less than the shards do: they outlive a change of packing, mix, length or checks.
    rows_code = code_digest("data/tokens/tokenize", "data/tokens/row_cache", "data/rendering/chat_format")
    key = cache_key("tokenize", code=code, inputs=inputs)
    return cached(
        parts.store, "tokenize", key, lambda: make_shards(parts, plan, str(dataset), rows_code), needs=_objects
    )


def _objects(made: dict[str, Any]) -> list[str]:
    return [
        *(digest for files in made["manifest"]["shards"].values() for digest in files),
        made["lengths"],
        made["page"],
    ]
