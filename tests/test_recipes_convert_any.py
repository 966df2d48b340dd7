"""What both importers promise: no traceback, hints that exist, an exit code that says whether the recipe can be added."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_convert_support import AXOLOTL_COMMON, FACTORY_COMMON, LORA, imported
from typer.testing import CliRunner

import ftplatform.recipes.convert
from ftplatform.cli import app
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import parse_recipe
from ftplatform.recipes.convert import SOURCES, convert, document
from ftplatform.recipes.fields import fields

SOURCE = Path(ftplatform.recipes.convert.__file__).parent


def test_a_value_cannot_leave_its_comment() -> None:
    text = 'base_model: m\nlearning_rate: 0.1\nodd: "one\\nname: evil"\n"a\\nb": 3\n'
    found = convert(yaml.safe_load(text), "axolotl", "x")
    said = document(found, "axolotl", "file\nname: worse.yml")
    assert yaml.safe_load(said)["name"] == "x"
    assert "#   odd: one name: evil - this platform has no such setting" in said


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="accepted are axolotl, llamafactory"):
        convert({}, "unsloth", "x")
    with pytest.raises(InvalidConfig, match="found list"):
        convert([], "axolotl", "x")
    with pytest.raises(InvalidConfig, match=r"names its model in base_model, and this one does not$"):
        convert({"adapter": "lora"}, "axolotl", "x")
    with pytest.raises(InvalidConfig, match="looks like a file of llamafactory: --from llamafactory"):
        convert({"model_name_or_path": "a/b", "stage": "dpo"}, "axolotl", "x")
    wrong = {
        "model_name_or_path": "a/b",
        "lora_rank": "16a",
        "learning_rate": "abc",
        "per_device_train_batch_size": "two",
    }
    with pytest.raises(InvalidConfig, match="lora_rank: 16a - accepted is a number") as told:
        convert(wrong, "llamafactory", "x")
    assert [key in str(told.value) for key in wrong] == [False, True, True, True]


def test_the_command_writes_a_file_that_can_be_checked(tmp_path: Path) -> None:
    source, out = tmp_path / "lora-8b.yml", tmp_path / "ours.yaml"
    source.write_text(AXOLOTL_COMMON + LORA)
    runner = CliRunner()
    printed = runner.invoke(app, ["recipe", "import", str(source), "--from", "axolotl"])
    assert yaml.safe_load(printed.output)["name"] == "lora-8b"
    written = runner.invoke(
        app, ["recipe", "import", str(source), "--from", "axolotl", "--name", "mine", "--out", str(out)]
    )
    assert "not carried over: 7" in written.output
    assert "Without meaning here: model_type" in written.output
    assert parse_recipe(yaml.safe_load(out.read_text())).name == "mine"
    assert runner.invoke(app, ["recipe", "check", str(out)]).exit_code == 0


def test_an_import_that_the_check_refuses_is_written_and_ends_with_one(tmp_path: Path) -> None:
    source, out = tmp_path / "rm.yaml", tmp_path / "ours.yaml"
    source.write_text("model_name_or_path: a/b\nstage: rm\nquantization_bit: 4\n")
    arguments = ["recipe", "import", str(source), "--from", "llamafactory"]
    for more in ([], ["--out", str(out)]):
        found = CliRunner().invoke(app, arguments + more)
        assert (found.exit_code, "training.quantization: reward trains a head" in found.output) == (1, True)
    assert yaml.safe_load(out.read_text())["method"] == "reward"
    assert CliRunner().invoke(app, ["recipe", "check", str(out)]).exit_code == 1


def keys() -> set[str]:
    """Everything in the importers' source that looks like a setting."""
    return {
        key
        for path in SOURCE.glob("*.py")
        for key in re.findall(r'"([a-z][a-z0-9_]+(?:\.[a-z_]+)?)"', path.read_text())
    }


def test_a_nearest_field_is_a_field() -> None:
    known = set(fields())
    groups = {name.split(".")[0] for name in known if "." in name}
    named = {key for key in keys() if key.split(".")[0] in groups and "." in key}
    assert len(named) > 40
    assert named - known == set()
    for texts, source in ((AXOLOTL_COMMON + LORA, "axolotl"), (FACTORY_COMMON, "llamafactory")):
        for one in imported(texts, source)[0].left:
            command = str(one.nearest).startswith(("ft ", "dataset.yaml ", "FTPLATFORM_"))
            assert one.nearest is None or command or one.nearest.split(":")[0] in known, one


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("axolotl", {}),
        ("axolotl", {"adapter": "lora", "lora_target_linear": True}),
        ("axolotl", {"rl": "grpo", "micro_batch_size": 8}),
        ("llamafactory", {}),
        ("llamafactory", {"stage": "dpo", "finetuning_type": "full"}),
    ],
)
def test_no_value_is_dropped_in_silence_or_leads_to_a_traceback(source: str, more: dict[str, Any]) -> None:
    """Of every key: in the recipe, in a note, listed, without meaning, or refused."""
    base = {SOURCES[source].model: "a/b", "learning_rate": 1e-4, **more}
    without = convert(base, source, "x")
    dropped = []
    for key, value in itertools.product(sorted(keys() - set(base)), ("x", -1, 1.5, [1], [[1]], {"a": 1}, "inf")):
        group, _, inner = key.partition(".")
        with contextlib.suppress(InvalidConfig):
            found = convert({**base, group: {inner: value} if inner else value}, source, "x")
            document(found, source, "file")
            if found == without:
                dropped.append((key, value))
    # Below 1, they say nothing there either.
    assert set(dropped) <= {("max_steps", -1), ("warmup_steps", -1), ("batch_size", -1), ("batch_size", 1.5)}
