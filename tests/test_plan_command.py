"""``ft plan``: for a config.json without a home, and for a dataset what its training would be planned as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plan_configs import CONFIGS
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.core.errors import InvalidConfig, PlanRefused


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path / "home"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["llama-2-7b"]))
    return str(path)


def ft(*words: str) -> str:
    result = CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ft(*words, "--json"))
    return found


def test_auto_on_one_card_says_method_card_and_reasons_and_makes_no_home(config: str, home: Path) -> None:
    found = answer("--model-config", config, "--tokens", "1e6", "--length", "2048", "auto", "--set", "hardware.gpu=a10")
    assert (found["method"], found["gpu"], found["servable"]) == ("lora", "a10", True)
    assert found["hours"][0] < found["hours"][1]
    assert found["reasons"]
    assert not (home / "catalog.db").exists()


def test_auto_with_full_weights_takes_the_variant_that_fits(config: str) -> None:
    words = ("--set", "parameterisation=full", "--set", "hardware.gpu=a100-80", "--set", "hardware.gpus=1")
    found = answer("--model-config", config, "--tokens", "1e6", "--length", "1024", "auto", *words)
    assert found["method"] == "full"
    assert found["memory_gb"]["optimizer"] < found["memory_gb"]["weights"] * 1.1
    assert any("107.8 GB" in row["why"] for row in found["rejected"])


def test_a_recipe_is_planned_as_it_is_written_and_set_wins_over_it(config: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "name: mine\nversion: 1\nbase: llama\nlora: {rank: 32}\n"
        "training: {learning_rate: 1.0e-4, max_length: 1024, batch_size: 8, quantization: nf4}\nhardware: {gpu: l4}\n"
    )
    where = ("--model-config", config, "--tokens", "1e6", str(recipe))
    found = answer(*where)
    assert (found["method"], found["gpu"]) == ("qlora", "l4")
    assert found["micro_batch"] * found["accumulation"] * found["gpus"] == 8
    assert answer(*where, "--set", "hardware.gpu=h100-80")["gpu"] == "h100-80"


def test_text_for_people_has_the_price_the_memory_and_the_reasons(config: str) -> None:
    said = ft("--model-config", config, "--tokens", "1e6", "auto")
    for part in ("price", "memory, GB per GPU", "Learning rate", "rejected", "16 bytes a weight"):
        assert part in said


@pytest.mark.parametrize(
    ("words", "error", "why"),
    [
        (["--set", "lora.rank=300", "--set", "lora.init_lora_weights=pissa"], PlanRefused, "does not accept rank 600"),
        (["--set", "lora.use_dora=true"], PlanRefused, "DoRA"),
        (
            ["--set", "parameterisation=full", "--set", "hardware.gpu=l4", "--set", "hardware.gpus=1"],
            PlanRefused,
            "24 GB",
        ),
        (["--set", "rank"], InvalidConfig, "key=value"),
        (["--set", "lora.colour=3"], InvalidConfig, "lora.colour"),
        (["--target", "speed"], InvalidConfig, "cost and quality"),
        (["--engine", "tgi"], InvalidConfig, "vllm and embedded"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(
    config: str, words: list[str], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        ft("--model-config", config, "--tokens", "1e6", "auto", *words)


def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    for content in ("{", "[]"):
        path.write_text(content)
        with pytest.raises(InvalidConfig, match=r"broken\.json"):
            ft("--model-config", str(path), "--tokens", "1e6", "auto")
