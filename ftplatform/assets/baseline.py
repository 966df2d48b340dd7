"""``baseline``: what the base model does already, asked plainly and with examples, before money is spent on training it."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.payloads import run_payload
from ftplatform.assets.reporting import check_specs, result, to_dagster
from ftplatform.assets.tokenizing import chat_format
from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import HELDOUT_SUITE, DatasetConfig
from ftplatform.core.manifests import Baseline
from ftplatform.core.methods import find_method
from ftplatform.core.payload import ModelSpec, ScoreRequest
from ftplatform.core.plan import Plan
from ftplatform.core.rows import Message
from ftplatform.data.blocks import read_rows
from ftplatform.evaluation.chance import lower_bound
from ftplatform.evaluation.few_shot import FEW_SHOT_SUITE, draw_examples, that_fit, with_examples
from ftplatform.evaluation.items import Turn
from ftplatform.evaluation.score_cache import load_scores, missing_scores, record_scores, score_request
from ftplatform.evaluation.suite_files import pinned_spec, publish_items, suite_items
from ftplatform.partitions import lines
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts

ASKED = 100
"""Held-out rows the question is decided on: 95 % right on 100 is known to 4 points, and long prompts are slow."""
CEILING = 0.95
"""Share right that counts as solved where dataset.yaml names no ``target``."""


@dg.asset(
    partitions_def=lines,
    group_name="evaluation",
    owners=["team:post-training"],
    kinds={"huggingface"},
    pool="training",
    check_specs=check_specs(
        "baseline",
        lines,
        {"worth_tuning": "the base model, plainly asked or shown examples, does not reach the target already"},
        blocking=False,
    ),
)
def baseline(context: dg.AssetExecutionContext, platform: Platform, training_plan: Plan) -> Iterator[object]:
    """Scores of the base, and of the base with examples of the training split in its prompt, on the same held-out rows."""
    with line_run(context, platform) as run:
        parts, plan = run.parts, training_plan
        config = DatasetConfig.model_validate(parts.store.get_json(plan.curated.config))
        target = config.target if config.target is not None else CEILING
        heldout = next((suite for suite in plan.suites if suite.name == HELDOUT_SUITE), None)
        if heldout is None or not config.check_base or not find_method(plan.method).answers:
            why = (
                "dataset.yaml says check_base: false" if not config.check_base else "no held-out row is a conversation"
            )
            yield to_dagster(CheckResult("worth_tuning", True, f"The base was not asked: {why}.", severity="warning"))
            yield result(Baseline(base=plan.base.key, asked=0, target=target), {"asked": 0, "why": why})
            return
        model = ModelSpec(name="base", kind="base", base_weights=plan.base.weights)
        # The whole suite, whose scores the report needs anyway; the comparison is on the rows that are asked both ways.
        plain = score_request(model, pinned_spec(parts.store, heldout))
        shown, examples = _shown(parts, plan, plain, config)
        requests = [plain, *([shown] if shown else [])]
        spec = missing_scores(parts.store, requests, address=parts.settings.store, threads=parts.settings.threads)
        if spec is not None:
            outcome = run_payload(context, parts, spec, stage="baseline", job=run.job, keep_alive=run.keep_alive)
            record_scores(parts.store, spec, outcome)
        scores = _scores(parts, requests)
        made = Baseline(base=plan.base.key, target=target, examples=examples, **scores)
        check = _worth_tuning(made)
        if not check.passed:
            context.log.warning(check.message)
        yield to_dagster(check)
        yield result(made, {**made.model_dump(), "why": check.message}, reused=spec is None)


def _shown(parts: Parts, plan: Plan, plain: ScoreRequest, config: DatasetConfig) -> tuple[ScoreRequest | None, int]:
    """The request with examples in front of each question, and how many; None where none fits the base's context."""
    items = sorted(suite_items(parts.store, plain.suite), key=lambda item: item.id)[:ASKED]
    rows = read_rows(parts.store.path(plan.curated.splits["train"]))
    drawn = draw_examples(rows, config.few_shot, plan.training.seed) if config.few_shot else []
    text = chat_format(parts.store, plan.base.weights)

    def tokens(turns: Sequence[Turn]) -> int:
        prompt = text.template.render([Message(turn.role, turn.content) for turn in turns], add_generation_prompt=True)
        return len(text.tokenizer.encode(prompt, add_special_tokens=False).ids)

    examples = that_fit(drawn, items, tokens, plan.base.max_length - config.max_new_tokens)
    if not examples:
        return None, 0
    asked = [with_examples(item, examples) for item in items]
    suite = publish_items(parts.store, FEW_SHOT_SUITE, asked, config.max_new_tokens)
    return score_request(plain.model, suite.spec), len(examples)


def _scores(parts: Parts, requests: Sequence[ScoreRequest]) -> dict[str, Any]:
    """``asked``, ``score`` and ``few_shot`` on the same items."""
    stored = load_scores(parts.store, requests)["base"]
    by_suite = {
        name: {item["id"]: item["score"] for item in parts.store.get_json(score.items)["items"]}
        for name, score in stored.items()
    }
    plain, shown = by_suite[HELDOUT_SUITE], by_suite.get(FEW_SHOT_SUITE)
    asked = sorted(shown if shown else plain)
    return {
        "asked": len(asked),
        "score": sum(plain[name] for name in asked) / len(asked),
        "few_shot": sum(shown.values()) / len(shown) if shown else None,
    }


def _worth_tuning(made: Baseline) -> CheckResult:
    """Warns where 95 % confidence says that the target is reached without training."""
    found = {"plainly asked": made.score, f"shown {made.examples} examples": made.few_shot}
    said = ", ".join(f"{share:.1%} {how}" for how, share in found.items() if share is not None)
    message = (
        f"The base {made.base} is right on {said}, of {made.asked} held-out rows; the target is {made.target:.0%}."
    )
    best = max((share, how) for how, share in found.items() if share is not None)
    reached = lower_bound(best[0], made.asked) >= made.target
    if reached:
        message += f" It may not be worth tuning: {best[1]} it does what is asked already."
    numbers = {"base": made.score, "n": made.asked, "target": made.target}
    if made.few_shot is not None:
        numbers["few_shot"] = made.few_shot
    return CheckResult("worth_tuning", not reached, message, severity="warning", numbers=numbers)
