"""``eval_report``: base, champion and candidate on the same items, and the verdict."""

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.payloads import run_payload
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import HELDOUT_SUITE
from ftplatform.core.manifests import Adapter, EvalReport
from ftplatform.core.methods import find_method
from ftplatform.core.payload import ModelSpec
from ftplatform.core.plan import Plan
from ftplatform.evaluation.chance import above_chance, beats_chance
from ftplatform.evaluation.report import build_report
from ftplatform.evaluation.report_view import forest_plot, score_table, slice_table
from ftplatform.evaluation.score_cache import load_scores, missing_scores, record_scores, score_requests
from ftplatform.evaluation.suite_files import pinned_spec
from ftplatform.partitions import lines
from ftplatform.resources import Platform


@dg.asset(
    partitions_def=lines,
    group_name="evaluation",
    owners=["team:post-training"],
    kinds={"huggingface"},
    pool="training",
    check_specs=check_specs(
        "eval_report",
        lines,
        {
            "no_regression_against_base": "shown to be no worse than the base model, within the margin, on every suite",
            "no_regression_against_champion": "shown to be no worse than the model in service, within the margin, on every suite",
            "safety": "shown to be no less safe, within the margin",
            "forgetting": "shown to keep the base model's general abilities, within the margin",
        },
        blocking=False,
    ),
)
def eval_report(
    context: dg.AssetExecutionContext, platform: Platform, training_plan: Plan, adapter: Adapter
) -> Iterator[object]:
    """Scores of the base model, the model in service and the candidate on the same items, and what the gate decides from them.

    A quarantined candidate is a correct result: the run stays green, the check shows red, and nothing can promote it.
    """
    with line_run(context, platform) as run:
        parts, plan = run.parts, training_plan
        requests = score_requests(_models(plan, adapter), [pinned_spec(parts.store, suite) for suite in plan.suites])
        spec = missing_scores(parts.store, requests, address=parts.settings.store, threads=parts.settings.threads)
        if spec is not None:
            outcome = run_payload(context, parts, spec, stage="evaluation", job=run.job, keep_alive=run.keep_alive)
            record_scores(parts.store, spec, outcome)
        else:
            context.log.info("Every score is known already: nothing was evaluated again.")
        report = build_report(
            parts.store,
            adapter=adapter.weights,
            dataset=plan.dataset,
            suites=plan.suites,
            scores=load_scores(parts.store, requests),
        )
        if not find_method(plan.method).answers:
            report = above_chance(report)
        for check in _checks(report, answers=find_method(plan.method).answers):
            yield to_dagster(check)
        context.log.info(f"Verdict: {report.verdict}. {' '.join(report.reasons)}")
        yield result(
            report,
            {
                "verdict": report.verdict,
                "why": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in report.reasons)),
                "scores": dg.MetadataValue.md(score_table(report)),
                "slices": dg.MetadataValue.md(slice_table(report)),
                "differences": picture(forest_plot(report), "differences with their bounds"),
                "models scored now": len({r.model.name for r in spec.requests}) if spec else 0,
            },
            reused=spec is None,
        )


def _models(plan: Plan, adapter: Adapter) -> list[ModelSpec]:
    # A reward model is compared with the base's own preference: which answer it finds likelier.
    scores = not find_method(plan.method).answers
    models = [
        ModelSpec(name="base", kind="base", base_weights=plan.base.weights),
        ModelSpec(
            name="candidate",
            kind=adapter.kind,
            base_weights=adapter.base_weights,
            weights=adapter.weights,
            scores=scores,
        ),
    ]
    if plan.champion is not None:
        champion = plan.champion
        models.append(
            ModelSpec(
                name="champion",
                kind=champion.kind,
                base_weights=champion.base_weights,
                weights=champion.weights,
                scores=scores,
            )
        )
    return models


def _checks(report: EvalReport, *, answers: bool) -> list[CheckResult]:
    general = {c.suite for c in report.comparisons} - {HELDOUT_SUITE, "safety"}
    groups = {
        "no_regression_against_base": [c for c in report.comparisons if c.reference == "base"],
        "no_regression_against_champion": [c for c in report.comparisons if c.reference == "champion"],
        "safety": [c for c in report.comparisons if c.suite == "safety"],
        "forgetting": [c for c in report.comparisons if c.suite in general and c.reference == "base"],
    }
    checks = []
    for name, group in groups.items():
        failed = [c for c in group if c.outcome != "non-inferior"]
        message = "; ".join(f"{c.suite} against {c.reference}: {c.outcome}" for c in failed)
        rows = [c.model_dump() for c in group]
        nothing = f"{len(group)} comparisons, all non-inferior"
        if not group:
            asked = answers or name == "no_regression_against_champion"
            nothing = "there is no model in service yet" if asked else "a reward model answers nothing"
        numbers = {f"{c.suite}_{c.reference}_difference": c.difference for c in group}
        checks.append(CheckResult(name, not failed, message or nothing, numbers=numbers, rows=rows))
    if not answers:
        passed, said = beats_chance(report)
        first = checks[0]
        checks[0] = replace(first, passed=first.passed and passed, message=f"{said} {first.message}")
    return checks
