"""What a plan is made from: base model, suites, tokens, teacher and reward models, each pinned by digest."""

import json
import sys
from itertools import islice
from typing import Any

from ftplatform.assets.plan_start import pinned_start
from ftplatform.assets.tokenizing import chat_format, tree_file
from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import HELDOUT_SUITE, DatasetConfig
from ftplatform.core.errors import NotFound
from ftplatform.core.ids import BaseKey, DatasetKey
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.methods import find_method
from ftplatform.core.plan import PinnedSuite
from ftplatform.core.recipe import Recipe
from ftplatform.data.blocks import read_rows
from ftplatform.data.tokens.tokenize import tokenize_rows
from ftplatform.evaluation.heldout_pairs import heldout_pairs, publish_pairs
from ftplatform.evaluation.margins import gating_suites
from ftplatform.evaluation.suite_files import heldout_sample, publish_heldout, publish_suite
from ftplatform.planning.job_plan import Inputs, Site
from ftplatform.planning.lengths import sequence_length
from ftplatform.planning.servable import Engine
from ftplatform.planning.setup import resolved_lora
from ftplatform.planning.shapes import ModelShape
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts

SAMPLED_ROWS = 200
"""Rows tokenized to estimate the dataset's tokens: the mean of 200 rows is within a few percent, the plan's interval is wider."""


def site_of(parts: Parts, engine: Engine | None = None) -> Site:
    """Where jobs run; ``engine`` is asked whether it would serve the result, None asks the deployment's own, the embedded one."""
    settings = parts.settings
    local = settings.executor == "local"
    return Site(gpus=(settings.default_gpu,) if local else settings.gpus, local=local, engine=engine or "embedded")


def registered_model(dataset: DatasetKey, method: str) -> str:
    """Name in the registry. Reward models stand beside the model that answers, so that neither is ever taken for the other: slugs
    hold no dot, and the names cannot collide.
    """
    name = dataset.registered_model
    return name if find_method(method).answers else f"{name}.{method}"


def newest_base(parts: Parts, recipe: Recipe) -> BaseModel:
    """The base's newest revision, or the one that ``init_from`` names."""
    named = recipe.init_from if isinstance(recipe.init_from, str) and "@" in recipe.init_from else None
    return made_base(parts, BaseKey.parse(named) if named else parts.catalog.bases.newest(recipe.base))


def made_base(parts: Parts, key: BaseKey) -> BaseModel:
    """Raises NotFound: the base model is registered and was never made."""
    document = parts.store.find_doc(latest_doc("base_model", str(key)))
    if document is None:
        raise NotFound(f"base model {key} is registered but was never made: materialize base_model for partition {key}")
    return BaseModel.model_validate(document["manifest"])


def inputs_of(
    parts: Parts, recipe: Recipe, base: BaseModel, curated: CuratedDataset, suites: tuple[PinnedSuite, ...] = ()
) -> Inputs:
    teacher = recipe.distillation.teacher if recipe.method == "distillation" else None
    config = base_config(parts, base)
    # A version is compared with the layers that this recipe names on this base.
    named = recipe.model_copy(update={"lora": resolved_lora(recipe, ModelShape.from_config(config))})
    model = registered_model(DatasetKey.parse(curated.dataset), recipe.method)
    return Inputs(
        curated=curated,
        base=base,
        base_config=config,
        champion=parts.catalog.champions.pinned(model),
        suites=suites,
        train_tokens=estimated_tokens(parts, recipe, base, curated),
        teacher=made_base(parts, BaseKey.parse(teacher)) if teacher else None,
        init=pinned_start(parts, named, base, model),
    )


def base_config(parts: Parts, base: BaseModel) -> dict[str, Any]:
    """The base model's ``config.json``."""
    found: dict[str, Any] = json.loads(tree_file(parts.store, base.weights, "config.json"))
    return found


def estimated_tokens(parts: Parts, recipe: Recipe, base: BaseModel, curated: CuratedDataset) -> int:
    """Tokens of the training split once, from a sample of its rows."""
    sample, lengths = _sampled_lengths(parts, base, curated)
    return round(
        sum(length for length in lengths if length <= recipe.training.max_length) / sample * curated.rows["train"]
    )


def fitting_length(parts: Parts, base: BaseModel, curated: CuratedDataset) -> tuple[int, str]:
    """The length of sequences that the training split's rows ask for, and the sentence that says so."""
    return sequence_length(_sampled_lengths(parts, base, curated)[1], base.max_length)


def _sampled_lengths(parts: Parts, base: BaseModel, curated: CuratedDataset) -> tuple[int, list[int]]:
    """The number of sampled rows, and tokens of each of their sequences, however long."""
    count = curated.rows["train"]
    path = parts.store.path(curated.splits["train"])
    sample = list(islice(read_rows(path), 0, None, max(1, count // SAMPLED_ROWS)))
    text = chat_format(parts.store, base.weights)
    return len(sample), tokenize_rows(sample, text.tokenizer, text.template, sys.maxsize).lengths


def pinned_suites(parts: Parts, recipe: Recipe, curated: CuratedDataset) -> tuple[tuple[PinnedSuite, ...], CheckResult]:
    """The suites that gate, and whether the dataset's own rows are among them.

    A model that answers is asked its own conversations and the platform's suites; one that scores, its own pairs.

    Raises:
        DataRefused: conversations, or pairs for a reward model, without any held out: nothing could show what was learned.
    """
    config = DatasetConfig.model_validate(parts.store.get_json(curated.config))
    rows, path = curated.rows["test"], parts.store.path(curated.splits["test"])
    if not find_method(recipe.method).answers:
        pairs = heldout_pairs(read_rows(path))
        stored = [publish_pairs(parts.store, pairs)]
        asked, message = True, f"{len(pairs)} of {rows} held-out pairs are scored."
        numbers = {"rows": rows, "asked": len(pairs)}
    else:
        test = heldout_sample(read_rows(path))
        names = gating_suites((*config.suites, *recipe.suites))
        if rows and not test:
            # Pairs, labels, prompts and documents have no single right answer to compare with.
            names = tuple(name for name in names if name != HELDOUT_SUITE)
        stored = [
            publish_heldout(parts.store, test, config.max_new_tokens)
            if name == HELDOUT_SUITE
            else publish_suite(parts.store, name)
            for name in names
        ]
        asked = HELDOUT_SUITE in names
        message = f"{len(test)} of {rows} held-out rows are asked."
        if not asked:
            message = (
                f"None of the {rows} held-out rows is a conversation: the platform's suites alone judge this model."
            )
        numbers = {"rows": rows, "asked": len(test)}
    check = CheckResult("heldout_asked", asked, message, severity="warning", numbers=numbers)
    return tuple(suite.pinned(config.margins) for suite in stored), check


def pinned_options(parts: Parts, recipe: Recipe, tenant: str) -> dict[str, Any]:
    """The method's options with every reward model by digest: one named by its dataset is that dataset's champion now.

    Raises:
        NotFound: a dataset without a reward model, or of another tenant.
    """
    options = recipe.method_options
    if "rewards" not in options:
        return options
    return options | {"rewards": [_pinned_reward(parts, grader, tenant) for grader in options["rewards"]]}


def _pinned_reward(parts: Parts, grader: dict[str, Any], tenant: str) -> dict[str, Any]:
    if grader["type"] != "reward_model" or grader["dataset"] is None:
        return grader
    dataset = DatasetKey.parse(grader["dataset"])
    champion = parts.catalog.champions.pinned(registered_model(dataset, "reward"))
    if champion is None or dataset.tenant != tenant:
        raise NotFound(
            f"the grader names the reward model of {dataset}, and {tenant} has none there: train {dataset} with a recipe of method "
            "reward until one is promoted, or name weights by digest"
        )
    return grader | {"weights": champion.weights, "base_weights": champion.base_weights, "kind": champion.kind}
