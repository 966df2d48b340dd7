"""``ft plan --model-config``: what the words say is what is planned, and what means nothing is refused in a sentence or in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from plan_configs import CONFIGS
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.core.errors import FtError, InvalidConfig
from ftplatform.planning.rates import learning_rate
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape

RECIPE: dict[str, Any] = {"name": "mine", "version": 1, "base": "llama", "training": {"learning_rate": 3e-4}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")


class Desk:
    """A folder with config files and recipes, and ``ft plan`` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self, model: str = "llama-2-7b", **changes: Any) -> str:
        path = self.folder / "config.json"
        path.write_text(json.dumps({**CONFIGS[model], **changes}))
        return str(path)

    def recipe(self, **values: Any) -> str:
        path = self.folder / "mine.yaml"
        training = {**RECIPE["training"], **values.pop("training", {})}
        path.write_text(yaml.safe_dump({**RECIPE, **values, "training": training}))
        return str(path)

    def plan(self, *words: str, model: str = "llama-2-7b", **changes: Any) -> dict[str, Any]:
        code, found = self.ask(*words, model=model, **changes)
        assert code == 0, found
        return found

    def ask(self, *words: str, model: str = "llama-2-7b", **changes: Any) -> tuple[int, dict[str, Any]]:
        known = ("--model-config", self.config(model, **changes), *(() if "--tokens" in words else ("--tokens", "1e6")))
        result = CliRunner().invoke(app, ["plan", *known, *words, "--json"], catch_exceptions=False)
        found: dict[str, Any] = json.loads(result.stdout)
        return result.exit_code, found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"parameterisation": "full", "training": {"quantization": "nf4"}}, "nf4 weights cannot be trained"),
        ({"parameterisation": "ia3", "method": "reward"}, "use lora or full"),
        ({"parameterisation": "full", "training": {"weights": "bf16"}}, "with weights bf16 use adamw_8bit"),
        (
            {"lora": {"init_lora_weights": "pissa"}, "training": {"quantization": "nf4"}},
            "pissa needs weights that are not",
        ),
        ({"parameterisation": "full", "lora": {"use_dora": True}}, "says nothing with parameterisation full"),
    ],
)
def test_values_that_contradict_each_other_get_no_plan(desk: Desk, values: dict[str, Any], why: str) -> None:
    code, found = desk.ask(desk.recipe(**values))
    assert (code, list(found)) == (1, ["refused"])
    assert why in found["refused"]
    pairs = [f"{name}={value}" for name, value in flat(values)]
    code, found = desk.ask("auto", *(word for pair in pairs for word in ("--set", pair)))
    assert code == 1
    assert why in found["refused"]


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    return [
        pair
        for name, value in values.items()
        for pair in (flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)])
    ]


@pytest.mark.parametrize("model", ["phi-3-mini", "gpt2", "qwen-3-30b-a3b"])
def test_a_recipe_that_names_no_layers_means_those_of_the_base(desk: Desk, model: str) -> None:
    length = ("--length", "512")
    named = desk.plan(desk.recipe(), *length, model=model)
    assert named["method"] == "lora"
    code, found = desk.ask(desk.recipe(lora={"target_modules": ["q_proj", "up_proj"]}), *length, model=model)
    assert code == 1
    assert "are not in a" in found["refused"]


def test_a_named_recipe_keeps_its_rate_its_epochs_and_its_steps(desk: Desk) -> None:
    said = " ".join(desk.plan(desk.recipe(training={"epochs": 7}))["reasons"])
    assert "Learning rate 0.0003, 7 epoch(s)" in said
    stepped = desk.plan(desk.recipe(training={"max_steps": 40, "batch_size": 8, "max_length": 1024}))
    assert "Learning rate 0.0003, 40 steps, as asked for" in " ".join(stepped["reasons"])
    assert desk.plan(desk.recipe(training={"max_steps": 400, "batch_size": 8}))["hours"][0] > stepped["hours"][0]


@pytest.mark.parametrize(
    ("setup", "rate"),
    [
        (Setup("full"), 2e-5),
        (Setup(), 2e-4),
        (Setup("full", method="dpo"), 5e-7),
        (Setup(method="dpo"), 5e-6),
        (Setup(method="kto"), 5e-6),
        (Setup(method="orpo"), 5e-5),
        (Setup("full", method="reward"), 1e-5),
        (Setup(method="distillation"), 2e-4),
    ],
)
def test_a_method_has_its_own_learning_rate(desk: Desk, setup: Setup, rate: float) -> None:
    assert learning_rate(setup, ModelShape.from_config(CONFIGS["llama-2-7b"])) == rate
    if setup.method != "distillation":
        words = ("--set", f"method={setup.method}", "--set", f"parameterisation={setup.parameterisation}")
        assert f"Learning rate {rate:g}," in " ".join(desk.plan("auto", *words)["reasons"])


def test_steps_count_with_auto_once_the_batch_is_chosen(desk: Desk) -> None:
    pinned = ("--set", "hardware.gpu=h100-80", "--set", "hardware.gpus=1", "--tokens", "1e8")
    few, many = (desk.plan("auto", *pinned, "--set", f"training.max_steps={steps}") for steps in (1000, 10000))
    assert many["hours"][1] > 8 * few["hours"][1]
    assert "1,000 steps, as asked for" in " ".join(few["reasons"])
    quoted = desk.plan("auto", *pinned, "--set", "training.max_steps='1000'")
    assert quoted["hours"] == few["hours"]


@pytest.mark.parametrize(
    "words",
    [
        ["--tokens", "nan"], ["--tokens", "inf"], ["--tokens", "-1"], ["--tokens", "1e300"],
        ["--budget", "nan"], ["--budget", "-3"], ["--budget", "0"], ["--deadline", "nan"], ["--deadline", "inf"],
    ],
)  # fmt: skip
def test_a_number_that_is_none_is_refused_as_json(desk: Desk, words: list[str]) -> None:
    code, found = desk.ask("auto", *words)
    assert code == 1
    assert "accepted is a number above 0" in found["refused"]


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": -4096}, {"num_hidden_layers": 0}, {"vocab_size": 1.5}, {"intermediate_size": "many"},
        {"num_attention_heads": None}, {"architectures": [["LlamaForCausalLM"]], "model_type": None},
        {"quantization_config": {"load_in_4bit": True}},
    ],
)  # fmt: skip
def test_a_config_that_means_nothing_is_refused_as_json(desk: Desk, changes: dict[str, Any]) -> None:
    code, found = desk.ask("auto", **changes)
    assert (code, list(found)) == (1, ["refused"])


def test_a_refusal_without_json_is_a_sentence(desk: Desk) -> None:
    with pytest.raises(FtError, match="accepted is a number above 0"):
        CliRunner().invoke(
            app, ["plan", "--model-config", desk.config(), "--tokens", "nan", "auto"], catch_exceptions=False
        )


@pytest.mark.parametrize("words", [["--target", "quality"], ["--out", "r.yaml"]])
def test_what_only_auto_decides_is_refused_beside_a_recipe(desk: Desk, words: list[str]) -> None:
    code, found = desk.ask(desk.recipe(), *words)
    assert code == 1
    assert "is for auto" in found["refused"]


def test_six_gpus_get_a_batch_of_six(desk: Desk) -> None:
    found = desk.plan("auto", "--set", "hardware.gpus=6")
    assert found["gpus"] == 6


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("llama-3-8b", []),
        ("llama-3-8b", ["--budget", "1.5"]),
        ("llama-3-8b", ["--deadline", "1", "--tokens", "1e8"]),
        ("llama-2-7b", ["--set", "parameterisation=full", "--set", "hardware.gpu=a100-80", "--set", "hardware.gpus=1"]),
        ("llama-3-8b", ["--set", "method=dpo", "--set", "dpo.beta=0.3", "--set", "lora.rank=24"]),
        ("llama-3-8b", ["--set", "training.max_steps=70", "--set", "hardware.gpus=6"]),
        ("llama-3-70b", ["--target", "quality"]),
        ("phi-3-mini", []),
    ],
)
def test_what_was_chosen_is_written_as_a_recipe_with_the_same_plan(desk: Desk, model: str, words: list[str]) -> None:
    out = desk.folder / "Chosen Plan.yaml"
    chosen = desk.plan("auto", *words, "--set", "base=llama", "--out", str(out), model=model)
    checked = CliRunner().invoke(app, ["recipe", "check", str(out)], catch_exceptions=False)
    assert (checked.exit_code, "fine" in checked.output) == (0, True), checked.output
    tokens = [words[i + 1] for i, word in enumerate(words) if word == "--tokens"]
    again = desk.plan(str(out), *(("--tokens", *tokens) if tokens else ()), model=model)
    for field in chosen:
        if field not in ("reasons", "rejected"):
            assert again[field] == chosen[field], field
    if "dpo.beta=0.3" in words:
        assert yaml.safe_load(out.read_text())["dpo"]["beta"] == 0.3


def test_a_recipe_is_written_only_with_a_base_and_where_there_is_a_folder(desk: Desk) -> None:
    code, found = desk.ask("auto", "--out", str(desk.folder / "r.yaml"))
    assert code == 1
    assert "--set base=SLUG" in found["refused"]
    with pytest.raises(InvalidConfig, match="cannot be written"):
        CliRunner().invoke(
            app,
            ["plan", "--model-config", desk.config(), "--tokens", "1e6", "auto", "--set", "base=b", "--out", str(desk.folder / "no" / "r.yaml")],
            catch_exceptions=False,
        )  # fmt: skip
