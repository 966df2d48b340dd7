"""Methods are chosen by name, built in or from an installed package; the control plane learns of them without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from methods_support import flat, pairs, records, run, stored
from training_support import store_in, tiny_spec

from ftplatform.core import methods
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.graders import StringCheck, TextSimilarity
from ftplatform.core.payload import PayloadSpec
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.launchers import LocalLauncher
from ftplatform.training.methods.grading import Answer, fill, open_graders, string_check, text_similarity

PLUG_IN = {
    "coin_method.py": """
from pydantic import Field
from ftplatform.core.frozen import Frozen
from ftplatform.core.methods import MethodInfo

class Options(Frozen):
    strength: float = Field(2.0, gt=0)

INFO = MethodInfo("coin", ("preference",), "coin_training:Coin", Options, unit="pairs", sequences=2)
""",
    "coin_training.py": """
from ftplatform.training.logprobs import sequence_logprobs
from ftplatform.training.methods.preference import Pairs

class Coin(Pairs):
    def losses(self, logprobs, counts, reference):
        rewards = (self.options.strength * logprobs / counts).reshape(2, -1)
        return (1 - rewards[0] + rewards[1]).relu(), rewards
""",
    "coin_rewards.py": "def length(sample, item):\n    return len(sample['output_text']) / item['longest']\n",
    "coin-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: coin\nVersion: 1.0\n",
    "coin-1.0.dist-info/entry_points.txt": (
        "[ftplatform.methods]\ncoin = coin_method:INFO\nwrong = coin_training:Coin\n\n"
        "[ftplatform.rewards]\nlength = coin_rewards:length\n"
    ),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site, before = tmp_path / "site", signal.getsignal(signal.SIGTERM)
    for name, text in PLUG_IN.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(str(site))
    methods._plug_in.cache_clear()
    yield
    methods._plug_in.cache_clear()
    signal.signal(signal.SIGTERM, before)


def recipe(**fields: Any) -> Recipe:
    return parse_recipe({"name": "one", "version": 1, "base": "starter", "training": {"learning_rate": 1e-3}, **fields})


@pytest.mark.usefixtures("installed")
def test_a_method_of_an_installed_package_is_planned_and_trained(tmp_path: Path) -> None:
    made = recipe(method="coin", options={"strength": 3})
    assert made.method_options == {"strength": 3.0}
    with pytest.raises(InvalidConfig, match="options of the method coin cannot be used: strength"):
        recipe(method="coin", options={"strength": -1})
    spec, store = tiny_spec(tmp_path, steps=4), store_in(tmp_path)[1]
    shards = {"train": (stored(store, tmp_path, flat(pairs(8, 0))),)}
    spec = spec.model_copy(update={"method": "coin", "options": made.method_options, "shards": shards})
    result = run(spec, tmp_path)
    assert result.outcome == "done", result.message
    assert "rewards/margins" in records(tmp_path, result)[0]


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "coin"
version = "1.0"

[project.entry-points."ftplatform.methods"]
coin = "coin_method:INFO"

[tool.setuptools]
py-modules = ["coin_method", "coin_training"]
"""


@pytest.mark.slow
def test_a_package_that_pip_installed_trains_in_a_payload_that_was_launched(tmp_path: Path) -> None:
    """Built and installed offline, found by the payload's interpreter alone: this process never sees it."""
    package, site = tmp_path / "package", tmp_path / "site"
    package.mkdir()
    (package / "pyproject.toml").write_text(PROJECT)
    for name in ("coin_method.py", "coin_training.py"):
        (package / name).write_text(PLUG_IN[name])
    offline = [
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(package)]
    subprocess.run(install, check=True, env=os.environ | {"PIP_CONFIG_FILE": os.devnull}, cwd=tmp_path)
    path = f"PYTHONPATH={site}{os.pathsep}{Path(methods.__file__).parents[2]}"

    def with_package(spec: PayloadSpec, place: Path) -> list[str]:
        return ["/usr/bin/env", path, sys.executable, "-m", "ftplatform.training", str(place)]

    spec, store = tiny_spec(tmp_path, steps=4), store_in(tmp_path)[1]
    shards = {"train": (stored(store, tmp_path, flat(pairs(8, 0))),)}
    spec = spec.model_copy(update={"method": "coin", "options": {"strength": 3.0}, "shards": shards})
    with_it, without = LocalLauncher(tmp_path / "a", command=with_package), LocalLauncher(tmp_path / "b")
    result = with_it.wait(with_it.submit(spec), lambda line: None, lambda: False, poll=0.1)
    assert result.outcome == "done", result.message
    assert "rewards/margins" in records(tmp_path, result)[0]
    other = spec.model_copy(update={"key": "b" * 64})
    refused = without.wait(without.submit(other), lambda line: None, lambda: False, poll=0.1)
    assert refused.outcome == "failed"
    assert "there is no method 'coin'" in refused.message


@pytest.mark.usefixtures("installed")
def test_a_python_grader_is_found_by_its_name() -> None:
    grader: Any = methods.GrpoConfig.model_validate({"rewards": [{"type": "python", "name": "length", "weight": 2}]})
    score = open_graders(grader.rewards, None, None, 0)  # type: ignore[arg-type]
    assert score([Answer("four", None, {"longest": 8})]) == [1.0]  # type: ignore[arg-type]
    unknown = grader.rewards[0].model_copy(update={"name": "width"})
    with pytest.raises(InvalidConfig, match=r"no Python grader 'width'.*installed are length"):
        open_graders([unknown], None, None, 0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_a_plug_in_that_names_no_method_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"accepted is a ftplatform.core.methods.MethodInfo"):
        methods.find_method("wrong")


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidConfig, match="accepted are cpt, distillation, dpo, grpo, kto, orpo, reward, rloo, sft"):
        methods.find_method("sftt")
    with pytest.raises(InvalidConfig, match="PPO is offered as grpo or rloo"):
        recipe(method="ppo")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "grpo"}, "nothing to reward answers by"),
        ({"method": "distillation"}, "has no teacher"),
        ({"method": "dpo", "dpo": {"loss": "ipo", "label_smoothing": 0.1}}, "not defined for the loss ipo"),
        ({"method": "dpo", "options": {"beta": 1}}, "those of dpo stand under `dpo`"),
        ({"method": "dpo", "dpo": {"betta": 1}}, "betta"),
        ({"method": "distillation", "distillation": {"teacher": "big"}}, "revision must be 8"),
    ],
)
def test_a_recipe_whose_method_lacks_something_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        recipe(**fields)


def test_a_recipe_gives_the_options_of_its_method_with_defaults_filled_in() -> None:
    assert recipe().method_options == {}
    found = recipe(method="dpo", dpo={"beta": 0.3}).method_options
    assert found == {"loss": "sigmoid", "beta": 0.3, "gamma": 0.5, "label_smoothing": 0.0}


def test_graders_read_the_answer_and_what_stands_beside_the_prompt() -> None:
    answer = Answer("Paris", None, {"city": {"name": "paris"}})  # type: ignore[arg-type]
    assert fill("{{ item.city.name }} or {{sample.output_text}}", answer) == "paris or Paris"
    with pytest.raises(InvalidConfig, match="its fields are city"):
        fill("{{item.country}}", answer)
    assert [string_check(op, "Paris", "paris") for op in ("eq", "ne", "like", "ilike")] == [0, 1, 0, 1]
    assert [string_check(op, "in Paris", "Paris") for op in ("eq", "ne", "like", "ilike")] == [0, 1, 1, 1]
    assert text_similarity("fuzzy_match", "abcd", "abcf") == 0.75
    assert text_similarity("rouge_1", "the red cat", "cat the") == pytest.approx(0.8)
    assert text_similarity("rouge_l", "the red cat", "cat the") == pytest.approx(0.4)
    assert text_similarity("rouge_l", "", "") == 1.0
    score = open_graders(
        [StringCheck(reference="Paris"), TextSimilarity(reference="{{item.city.name}}", weight=0.5)],
        None, None, 0,  # type: ignore[arg-type]
    )  # fmt: skip
    assert score([answer]) == [pytest.approx(1 + 0.5 * 0.8)]
