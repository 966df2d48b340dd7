"""From stored scores to the evaluation report with its verdict. Control plane."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ftplatform.core.errors import NotFound, PayloadFailed
from ftplatform.core.manifests import EvalReport, SuiteScore
from ftplatform.core.plan import PinnedSuite
from ftplatform.evaluation.gate import Reference, Scores, compare, decide
from ftplatform.evaluation.items import Item
from ftplatform.evaluation.suite_files import pinned_spec, suite_items
from ftplatform.store.base import ObjectStore

SMALLEST_SLICE = 5
"""Items; the share of fewer says nothing, and a tag with a value per row would fill the report."""


def build_report(
    store: ObjectStore,
    *,
    adapter: str,
    dataset: str,
    suites: Sequence[PinnedSuite],
    scores: Mapping[str, Mapping[str, SuiteScore]],
) -> EvalReport:
    """Compare, decide and slice. ``scores`` holds ``base``, ``candidate`` and, unless there is none yet, ``champion``.

    Raises:
        NotFound: a model or a suite without scores.
        PayloadFailed: scores of different items.
    """
    references: tuple[Reference, ...] = ("base", "champion") if "champion" in scores else ("base",)
    items = {suite.name: suite_items(store, pinned_spec(store, suite)) for suite in suites}
    by_model = {
        model: {suite: _item_scores(store, scores, model, suite, held) for suite, held in items.items()}
        for model in (*references, "candidate")
    }
    comparisons = tuple(
        compare(suite.name, reference, suite.margin, by_model[reference][suite.name], by_model["candidate"][suite.name])
        for reference in references
        for suite in suites
    )
    verdict, reasons = decide(comparisons, suites=[suite.name for suite in suites], references=references)
    slices: dict[str, dict[str, float]] = {}
    for suite_name, held in items.items():
        slices |= slice_scores(suite_name, held, {model: found[suite_name] for model, found in by_model.items()})
    return EvalReport(
        adapter=adapter,
        dataset=dataset,
        comparisons=comparisons,
        scores={model: dict(scores[model]) for model in by_model},
        slices=slices,
        verdict=verdict,
        reasons=reasons,
    )


def slice_scores(suite: str, items: Iterable[Item], by_model: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    """``suite/tag=value`` -> model -> share of right items, for every tag value with at least five items."""
    members: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for tag, value in item.tags.items():
            members[f"{suite}/{tag}={value}"].append(item.id)
    return {
        name: {model: sum(scores[item] for item in ids) / len(ids) for model, scores in by_model.items()}
        for name, ids in sorted(members.items())
        if len(ids) >= SMALLEST_SLICE
    }


def _item_scores(
    store: ObjectStore, scores: Mapping[str, Mapping[str, SuiteScore]], model: str, suite: str, items: Sequence[Item]
) -> dict[str, int]:
    if model not in scores or suite not in scores[model]:
        raise NotFound(
            f"the report needs the scores of {model} on {suite}; found {sorted(scores.get(model, {})) or 'none'}"
        )
    found = {item["id"]: item["score"] for item in store.get_json(scores[model][suite].items)["items"]}
    if found.keys() != {item.id for item in items}:
        raise PayloadFailed(
            f"the scores of {model} on {suite} are of {len(found)} items, the suite pinned by the plan has "
            f"{len(items)} and they are not the same: score the model on the pinned suite, a retry does not help"
        )
    return found
