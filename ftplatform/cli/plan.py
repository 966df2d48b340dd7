"""``ft plan``: what a training would need and cost, and why, before anything is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ftplatform.assets import probing
from ftplatform.assets.plan_inputs import inputs_of, newest_base, site_of
from ftplatform.cli.common import console, open_parts, show
from ftplatform.cli.plan_request import AUTO, merged, read_config, request_of, settings_of
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, RecipeKey
from ftplatform.core.manifests import CuratedDataset
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.planning.calibration import measured_by
from ftplatform.planning.choose import choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.job_plan import make_plan
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import span
from ftplatform.recipes import read_recipe, shipped
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings


def plan(
    names: Annotated[
        list[str], typer.Argument(help="DATASET RECIPE, or RECIPE alone with --model-config; RECIPE may be auto")
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", help="a recipe field, key=value; repeatable")] = None,
    model_config: Annotated[Path | None, typer.Option(help="a Hugging Face config.json, instead of a dataset")] = None,
    tokens: Annotated[float | None, typer.Option(help="tokens of the training rows, once; with --model-config")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="tokens per packed sequence; with --model-config")] = None,
    target: Annotated[str, typer.Option(help="cost or quality: what comes first")] = "cost",
    budget: Annotated[float | None, typer.Option(help="most that the upper price may be")] = None,
    deadline: Annotated[float | None, typer.Option(help="hours that the upper duration may be")] = None,
    engine: Annotated[str, typer.Option(help="vllm or embedded: who has to serve the result")] = "vllm",
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="run a few steps of the training on this machine first, and plan with what they measured"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Method, GPUs, memory, hours and price of a training, with reasons; nothing is started."""
    if target not in ("cost", "quality"):
        raise InvalidConfig(f"--target {target}: accepted are cost and quality")
    if engine not in ("vllm", "embedded"):
        raise InvalidConfig(f"--engine {engine}: accepted are vllm and embedded")
    given = settings_of(settings or [])
    wish: dict[str, Any] = {"target": target, "budget": budget, "deadline": deadline, "engine": engine}
    if model_config is not None:
        if tokens is not None and tokens <= 0:
            raise InvalidConfig(f"--tokens {tokens:g}: accepted is a number above 0")
        if len(names) != 1 or tokens is None:
            raise InvalidConfig("ft plan --model-config FILE needs --tokens and one name: a recipe, or auto")
        if probe:
            raise InvalidConfig("--probe trains a few steps, which needs DATASET RECIPE and not --model-config")
        answer = _for_config(read_config(model_config), names[0], given, tokens, length, wish)
    elif len(names) == 2:
        answer = _for_dataset(DatasetKey.parse(names[0]), names[1], given, length, wish, probe)
    else:
        raise InvalidConfig(f"ft plan takes DATASET RECIPE, or --model-config FILE RECIPE; found {' '.join(names)}")
    refused = answer.pop("refused", "")
    if as_json:
        # Not through rich, which would wrap and colour.
        print(json.dumps(answer, indent=2))
    else:
        _print(answer)
    if refused:
        print(f"error: {refused}", file=sys.stderr)
        raise typer.Exit(1)


def _for_config(
    config: dict[str, Any], name: str, given: dict[str, Any], tokens: float, length: int | None, wish: dict[str, Any]
) -> dict[str, Any]:
    catalogue = load_hardware(load_settings().hardware)
    request = request_of(ModelShape.from_config(config), name, given, tokens, length, wish, _find_recipe)
    return choose(request, catalogue).to_json()


def _find_recipe(name: str) -> Recipe:
    if "@" in name:
        return open_parts().catalog.recipes.get(RecipeKey.parse(name))
    return read_recipe(shipped().get(name) or Path(name))


def _for_dataset(
    dataset: DatasetKey, name: str, given: dict[str, Any], length: int | None, wish: dict[str, Any], probe: bool
) -> dict[str, Any]:
    """What ``training_plan`` would decide; with ``auto``, what the planner would choose for the dataset's rows."""
    parts = open_parts()
    curated = _curated(parts, dataset)
    recipe = _dataset_recipe(parts, name, given)
    base = newest_base(parts, recipe)
    inputs, measured = inputs_of(parts, recipe, base, curated), measured_by(parts.store, base.key)
    if name == AUTO:
        if probe:
            raise InvalidConfig("--probe measures one training: name a recipe instead of auto")
        chosen = {key: value for key, value in given.items() if key != "base"}
        shape = ModelShape.from_config(inputs.base_config)
        length = length or recipe.training.max_length
        request = request_of(shape, AUTO, chosen, inputs.train_tokens, length, wish, _find_recipe)
        return choose(request, parts.hardware, measured).to_json()
    made, checks = make_plan(recipe, inputs, parts.hardware, site_of(parts), measured)
    if probe and all(check.passed for check in checks):
        _probe(parts, made, recipe)
        made, checks = make_plan(recipe, inputs, parts.hardware, site_of(parts), measured_by(parts.store, base.key))
    answer = _plan_json(made, recipe)
    if failed := [f"{check.name}: {check.message}" for check in checks if not check.passed]:
        answer["refused"] = "; ".join(failed)
    return answer


def _probe(parts: Parts, made: Plan, recipe: Recipe) -> None:
    if parts.settings.executor != "local":
        raise InvalidConfig("--probe trains on this machine: on a cluster materialize plan_probe, after training_plan")

    def run(spec: TrainSpec) -> PayloadResult:
        handle = parts.launcher.submit(spec)
        try:
            return parts.launcher.wait(handle, lambda line: None, lambda: False)
        except KeyboardInterrupt:
            parts.launcher.cancel(handle)
            raise

    found = probing.probe(parts, made, Setup.from_recipe(recipe), run)
    print(
        f"probe: {found.peak_gb:.2f} GB measured, {found.estimated_gb:.2f} GB estimated; "
        f"{found.tokens_per_second:,.0f} tokens per second and GPU",
        file=sys.stderr,
    )


def _curated(parts: Parts, dataset: DatasetKey) -> CuratedDataset:
    if parts.catalog.datasets.curated(dataset) is None:
        raise NotFound(f"dataset {dataset} has no accepted version yet: `ft dataset report {dataset}` says why")
    return CuratedDataset.model_validate(parts.store.get_doc(latest_doc("curated_dataset", str(dataset)))["manifest"])


def _dataset_recipe(parts: Parts, name: str, given: dict[str, Any]) -> Recipe:
    if name != AUTO:
        recipe = parts.catalog.recipes.get(RecipeKey.parse(name)) if "@" in name else _find_recipe(name)
        return parse_recipe(merged(recipe.model_dump(mode="json", exclude_unset=True), given))
    if "base" not in given:
        raise InvalidConfig("ft plan DATASET auto needs a base model: --set base=SLUG, of `ft base list`")
    return parse_recipe(merged({"name": AUTO, "version": 1, "training": {"learning_rate": 1e-4}}, given))


def _plan_json(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    return {
        "method": Setup.from_recipe(recipe).name,
        "gpu": plan.placement.gpu,
        "gpus": plan.placement.gpus,
        "nodes": plan.placement.nodes,
        "strategy": plan.strategy,
        "micro_batch": plan.micro_batch,
        "accumulation": plan.accumulation,
        "memory_gb": plan.memory_gb.model_dump(),
        "hours": list(plan.hours),
        "price": list(plan.price),
        "servable": plan.servable,
        "reasons": list(plan.reasons),
        "rejected": list(plan.rejected),
    }


def _print(answer: dict[str, Any]) -> None:
    memory = answer["memory_gb"]
    console.print(
        f"{answer['method']} on {answer['gpus']} x {answer['gpu']} ({answer['strategy']}, {answer['nodes']} node(s)), "
        f"micro-batch {answer['micro_batch']} x {answer['accumulation']}",
        markup=False,
        highlight=False,
    )
    console.print(
        f"{span(answer['hours'])}, price {answer['price'][0]:.4g} to {answer['price'][1]:.4g}", highlight=False
    )
    show("memory, GB per GPU", tuple(memory), [tuple(f"{value:.2f}" for value in memory.values())])
    for reason in answer["reasons"]:
        console.print(f"- {reason}", markup=False, highlight=False)
    if answer["rejected"]:
        show("rejected", ("option", "why"), [(row["option"], row["why"]) for row in answer["rejected"]])
