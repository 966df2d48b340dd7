"""``ft plan``: what a training would need and cost, and why, before anything is started."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ftplatform.assets import probing
from ftplatform.assets.plan_inputs import base_config, fitting_length, inputs_of, newest_base, site_of
from ftplatform.cli.common import console, open_parts, show
from ftplatform.cli.plan_out import write_recipe
from ftplatform.cli.plan_request import AUTO, MOST_TOKENS, above_zero, merged, read_config, request_of, settings_of
from ftplatform.core.errors import FtError, InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, RecipeKey
from ftplatform.core.manifests import CuratedDataset
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.planning.calibration import measured_by
from ftplatform.planning.choose import choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.job_plan import make_plan
from ftplatform.planning.request import Target
from ftplatform.planning.servable import Engine
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import span
from ftplatform.recipes import read_recipe, shipped
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of one ``ft plan``, None where nothing was said."""

    given: dict[str, Any]
    """What ``--set`` names, nested."""
    tokens: float | None
    length: int | None
    target: Target | None
    budget: float | None
    deadline: float | None
    engine: Engine | None
    out: Path | None
    probe: bool

    def limits(self, engine: Engine) -> dict[str, Any]:
        """As ``Request`` has them; ``engine`` serves where none was named."""
        return {
            "target": self.target or "cost",
            "budget": self.budget,
            "deadline": self.deadline,
            "engine": self.engine or engine,
        }


def plan(
    names: Annotated[
        list[str], typer.Argument(help="DATASET RECIPE, or RECIPE alone with --model-config; RECIPE may be auto")
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", help="a recipe field, key=value; repeatable")] = None,
    model_config: Annotated[Path | None, typer.Option(help="a Hugging Face config.json, instead of a dataset")] = None,
    tokens: Annotated[float | None, typer.Option(help="tokens of the training rows, once; with --model-config")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="tokens per packed sequence")] = None,
    target: Annotated[str | None, typer.Option(help="with auto: cost (the default) or quality comes first")] = None,
    budget: Annotated[float | None, typer.Option(help="most that the upper price may be")] = None,
    deadline: Annotated[
        float | None, typer.Option(help="hours that the upper duration may be; with auto or --model-config")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm or embedded: who has to serve the result; default with a dataset: embedded")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="with auto: write what was chosen as a recipe")] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="run a few steps of the training on this machine first, and plan with what they measured"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, of a refusal too")] = False,
) -> None:
    """Method, GPUs, memory, hours and price of a training, with reasons; nothing is started."""
    try:
        wishes = Wishes(
            settings_of(settings or []), tokens, length, _one_of("--target", target, "cost", "quality"), budget, deadline,
            _one_of("--engine", engine, "vllm", "embedded"), out, probe,
        )  # fmt: skip
        answer = _answer(names, model_config, wishes)
    except FtError as error:
        if not as_json:
            raise
        answer = {"refused": str(error)}
    if as_json:
        # Not through rich, which would wrap and colour.
        print(json.dumps(answer, indent=2))
    else:
        _print(answer)
    if refused := answer.get("refused"):
        print(f"error: {refused}", file=sys.stderr)
        raise typer.Exit(1)


def _one_of(option: str, value: str | None, *accepted: str) -> Any:
    if value is not None and value not in accepted:
        raise InvalidConfig(f"{option} {value}: accepted are {' and '.join(accepted)}")
    return value


def _answer(names: list[str], model_config: Path | None, wishes: Wishes) -> dict[str, Any]:
    above_zero("--tokens", wishes.tokens, MOST_TOKENS)
    above_zero("--budget", wishes.budget)
    above_zero("--deadline", wishes.deadline)
    if names[-1] != AUTO:
        for option, value in (("--target", wishes.target), ("--out", wishes.out)):
            if value is not None:
                raise InvalidConfig(f"{option} is for auto, where the planner chooses: the recipe {names[-1]} says it")
    if model_config is not None:
        if len(names) != 1 or wishes.tokens is None:
            raise InvalidConfig("ft plan --model-config FILE needs --tokens and one name: a recipe, or auto")
        if wishes.probe:
            raise InvalidConfig("--probe trains a few steps, which needs DATASET RECIPE and not --model-config")
        return _for_config(read_config(model_config), names[0], wishes)
    if len(names) != 2:
        raise InvalidConfig(f"ft plan takes DATASET RECIPE, or --model-config FILE RECIPE; found {' '.join(names)}")
    if wishes.tokens is not None:
        raise InvalidConfig("--tokens is for --model-config: those of a dataset are counted")
    dataset = DatasetKey.parse(names[0])
    return _auto_for_dataset(dataset, wishes) if names[1] == AUTO else _for_dataset(dataset, names[1], wishes)


def _for_config(config: dict[str, Any], name: str, wishes: Wishes) -> dict[str, Any]:
    assert wishes.tokens is not None
    catalogue = load_hardware(load_settings().hardware)
    shape, limits = ModelShape.from_config(config), wishes.limits("vllm")
    request = request_of(shape, name, wishes.given, wishes.tokens, wishes.length, limits, _find_recipe)
    choice = choose(request, catalogue)
    if wishes.out is not None:
        write_recipe(wishes.out, choice, wishes.given, request.budget)
    return choice.to_json()


def _find_recipe(name: str) -> Recipe:
    if "@" in name:
        return open_parts().catalog.recipes.get(RecipeKey.parse(name))
    return read_recipe(shipped().get(name) or Path(name))


def _auto_for_dataset(dataset: DatasetKey, wishes: Wishes) -> dict[str, Any]:
    """What the planner would choose for the dataset's rows, from all of the hardware catalogue."""
    if wishes.probe:
        raise InvalidConfig("--probe measures one training: name a recipe instead of auto")
    if "base" not in wishes.given:
        raise InvalidConfig("ft plan DATASET auto needs a base model: --set base=SLUG, of `ft base list`")
    parts = open_parts()
    curated = _curated(parts, dataset)
    recipe = parse_recipe(merged({"name": AUTO, "version": 1, "training": {"learning_rate": 1e-4}}, wishes.given))
    base = newest_base(parts, recipe)
    length, why = wishes.length, ""
    if length is None and "max_length" not in wishes.given.get("training", {}):
        length, why = fitting_length(parts, base, curated)
    # The rows that are counted are those that fit.
    asked = merged(wishes.given, {"training": {"max_length": length}} if length else {})
    counted = parse_recipe(merged(recipe.model_dump(mode="json"), asked))
    tokens = inputs_of(parts, counted, base, curated).train_tokens
    site = site_of(parts, wishes.engine)
    chosen = {field: value for field, value in wishes.given.items() if field != "base"}
    shape = ModelShape.from_config(base_config(parts, base))
    request = request_of(shape, AUTO, chosen, tokens, length, wishes.limits(site.engine), _find_recipe)
    choice = choose(replace(request, why_length=why), parts.hardware, measured_by(parts.store, base.key))
    if wishes.out is not None:
        write_recipe(wishes.out, choice, wishes.given, request.budget)
    return choice.to_json()


def _for_dataset(dataset: DatasetKey, name: str, wishes: Wishes) -> dict[str, Any]:
    """What ``training_plan`` would decide for the recipe."""
    if wishes.deadline is not None:
        raise InvalidConfig(
            "--deadline chooses hardware, and a job takes its recipe's: name auto, or set hardware.gpu and hardware.gpus"
        )
    parts = open_parts()
    curated = _curated(parts, dataset)
    said: dict[str, Any] = {"training": {"max_length": wishes.length}} if wishes.length is not None else {}
    said |= {"hardware": {"max_price": wishes.budget}} if wishes.budget is not None else {}
    recipe = parse_recipe(
        merged(_find_recipe(name).model_dump(mode="json", exclude_unset=True), merged(wishes.given, said))
    )
    base, site = newest_base(parts, recipe), site_of(parts, wishes.engine)
    inputs = inputs_of(parts, recipe, base, curated)
    made, checks = make_plan(recipe, inputs, parts.hardware, site, measured_by(parts.store, base.key))
    if wishes.probe and all(check.passed for check in checks):
        _probe(parts, made, recipe)
        made, checks = make_plan(recipe, inputs, parts.hardware, site, measured_by(parts.store, base.key))
    failed = [f"{check.name}: {check.message}" for check in checks if not check.passed]
    return ({"refused": "; ".join(failed)} if failed else {}) | _plan_json(made, recipe)


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
