"""``ft plan``: what a training would need and cost, and why, before anything is started."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ftplatform.assets.tokenizing import tree_file
from ftplatform.assets.training_plan import _base, _tokens
from ftplatform.cli.common import console, open_parts, show
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, RecipeKey
from ftplatform.core.manifests import CuratedDataset
from ftplatform.core.plan import Plan
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.planning.calibration import CalibrationKey, Envelope, envelope
from ftplatform.planning.choose import FULL, Request, choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.job_plan import Inputs, make_plan
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import span
from ftplatform.recipes import read_recipe, shipped
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings

AUTO = "auto"
_TRAINED = ("parameterisation", "lora", "method")
_KEPT = ("quantization", "optimizer", "precision", "virtual_tokens")


def plan(
    names: Annotated[
        list[str], typer.Argument(help="DATASET RECIPE, or RECIPE alone with --model-config; RECIPE may be auto")
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", help="a recipe field, key=value; repeatable")] = None,
    model_config: Annotated[Path | None, typer.Option(help="a Hugging Face config.json, instead of a dataset")] = None,
    tokens: Annotated[float | None, typer.Option(help="tokens of the training rows, once; with --model-config")] = None,
    length: Annotated[int | None, typer.Option(help="tokens per packed sequence; with --model-config")] = None,
    target: Annotated[str, typer.Option(help="cost or quality: what comes first")] = "cost",
    budget: Annotated[float | None, typer.Option(help="most that the upper price may be")] = None,
    deadline: Annotated[float | None, typer.Option(help="hours that the upper duration may be")] = None,
    engine: Annotated[str, typer.Option(help="vllm or embedded: who has to serve the result")] = "vllm",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Method, GPUs, memory, hours and price of a training, with reasons; nothing is started."""
    if target not in ("cost", "quality"):
        raise InvalidConfig(f"--target {target}: accepted are cost and quality")
    if engine not in ("vllm", "embedded"):
        raise InvalidConfig(f"--engine {engine}: accepted are vllm and embedded")
    given = _settings(settings or [])
    wish: dict[str, Any] = {"target": target, "budget": budget, "deadline": deadline, "engine": engine}
    if model_config is not None:
        if len(names) != 1 or tokens is None:
            raise InvalidConfig("ft plan --model-config FILE needs --tokens and one name: a recipe, or auto")
        answer = _for_config(_read_config(model_config), names[0], given, tokens, length, wish)
    elif len(names) == 2:
        answer = _for_dataset(DatasetKey.parse(names[0]), names[1], given, length, wish)
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


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``lora.rank=32`` -> {"lora": {"rank": 32}}."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise InvalidConfig(f"--set {pair}: accepted is key=value, for example lora.rank=32")
        *groups, last = name.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = yaml.safe_load(value)
    return found


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return below | {
        name: _merged(below[name], value) if isinstance(value, dict) and isinstance(below.get(name), dict) else value
        for name, value in above.items()
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidConfig(f"{path} cannot be read as a Hugging Face config.json: {error}") from error
    if not isinstance(value, dict):
        raise InvalidConfig(
            f"{path} is not a Hugging Face config.json: found a {type(value).__name__}, accepted is an object"
        )
    return value


def _for_config(
    config: dict[str, Any], name: str, given: dict[str, Any], tokens: float, length: int | None, wish: dict[str, Any]
) -> dict[str, Any]:
    catalogue = load_hardware(load_settings().hardware)
    request = _request(ModelShape.from_config(config), name, given, tokens, length, wish, _find_recipe)
    return choose(request, catalogue).to_json()


def _find_recipe(name: str) -> Recipe:
    if "@" in name:
        return open_parts().catalog.recipes.get(RecipeKey.parse(name))
    return read_recipe(shipped().get(name) or Path(name))


def _request(
    shape: ModelShape,
    name: str,
    given: dict[str, Any],
    tokens: float,
    length: int | None,
    wish: dict[str, Any],
    find: Any,
) -> Request:
    """What is asked of the planner: a recipe's fields, or with ``auto`` only those that ``--set`` names."""
    if name == AUTO:
        written: dict[str, Any] = given
    else:
        written = _merged(find(name).model_dump(mode="json", exclude_unset=True), given)
    stand_in = {"name": AUTO, "version": 1, "base": AUTO, "training": {"learning_rate": 1e-4}}
    recipe = parse_recipe(_merged(stand_in, written))
    training, hardware = written.get("training", {}), written.get("hardware", {})
    setup = Setup.from_recipe(recipe)
    if "target_modules" not in written.get("lora", {}):
        setup = replace(setup, modules=None)
    setups: tuple[Setup, ...] = (setup,)
    if name == AUTO:
        if set(given) & set(_TRAINED) == {"parameterisation"} and setup.full and not set(training) & set(_KEPT):
            setups = FULL
        elif not (set(given) & set(_TRAINED) or set(training) & set(_KEPT)):
            setups = ()
    gpu = hardware.get("gpu", AUTO)
    return Request(
        shape=shape,
        tokens=tokens / (1 - recipe.replay),
        length=length or training.get("max_length") or min(2048, shape.max_length),
        epochs=training.get("epochs"),
        batch=training.get("batch_size"),
        setups=setups,
        gpu=None if gpu == AUTO else gpu,
        gpus=hardware.get("gpus"),
        spot=hardware.get("spot"),
        **(wish if wish["budget"] is not None else wish | {"budget": recipe.hardware.max_price}),
    )


def _for_dataset(
    dataset: DatasetKey, name: str, given: dict[str, Any], length: int | None, wish: dict[str, Any]
) -> dict[str, Any]:
    """What ``training_plan`` would decide; with ``auto``, what the planner would choose for the dataset's rows."""
    parts = open_parts()
    curated = _curated(parts, dataset)
    recipe = _dataset_recipe(parts, name, given)
    base = _base(parts, recipe)
    config = json.loads(tree_file(parts.store, base.weights, "config.json"))
    tokens = _tokens(parts, recipe, base, curated)
    if name == AUTO:

        def measured(setup: Setup, length: int, gpu: str) -> Envelope | None:
            return envelope(
                parts.store, CalibrationKey(base=base.key, parameterisation=setup.name, length=length, gpu=gpu)
            )

        chosen = {key: value for key, value in given.items() if key != "base"}
        shape = ModelShape.from_config(config)
        request = _request(shape, AUTO, chosen, tokens, length or recipe.training.max_length, wish, _find_recipe)
        return choose(request, parts.hardware, measured).to_json()
    inputs = Inputs(curated, base, config, None, (), tokens)
    local = parts.settings.executor == "local"
    made, checks = make_plan(recipe, inputs, parts.hardware, default_gpu=parts.settings.default_gpu, local=local)
    answer = _plan_json(made, recipe)
    if failed := [f"{check.name}: {check.message}" for check in checks if not check.passed]:
        answer["refused"] = "; ".join(failed)
    return answer


def _curated(parts: Parts, dataset: DatasetKey) -> CuratedDataset:
    if parts.catalog.datasets.curated(dataset) is None:
        raise NotFound(f"dataset {dataset} has no accepted version yet: `ft dataset report {dataset}` says why")
    return CuratedDataset.model_validate(parts.store.get_doc(latest_doc("curated_dataset", str(dataset)))["manifest"])


def _dataset_recipe(parts: Parts, name: str, given: dict[str, Any]) -> Recipe:
    if name != AUTO:
        recipe = parts.catalog.recipes.get(RecipeKey.parse(name)) if "@" in name else _find_recipe(name)
        return parse_recipe(_merged(recipe.model_dump(mode="json", exclude_unset=True), given))
    if "base" not in given:
        raise InvalidConfig("ft plan DATASET auto needs a base model: --set base=SLUG, of `ft base list`")
    return parse_recipe(_merged({"name": AUTO, "version": 1, "training": {"learning_rate": 1e-4}}, given))


def _plan_json(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    return {
        "method": Setup.from_recipe(recipe).name,
        "gpu": plan.placement.gpu,
        "gpus": plan.placement.gpus,
        "nodes": 1,
        "strategy": "single" if plan.placement.gpus == 1 else "ddp",
        "micro_batch": plan.micro_batch,
        "accumulation": plan.accumulation,
        "memory_gb": plan.memory_gb.model_dump(),
        "hours": list(plan.hours),
        "price": list(plan.price),
        "servable": plan.servable,
        "reasons": list(plan.reasons),
        "rejected": [],
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
