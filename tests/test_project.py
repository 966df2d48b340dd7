"""What holds for the project as a whole: the lock, the definitions, the two ways to load them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^;\s]+)$")


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [PIN.match(line) for line in lines if line and not line.startswith("#")]
    assert all(pins), "every line of the lock is name==version: no hashes, no addresses, no options"
    return {_name(pin[1]): pin[2] for pin in pins if pin}


def _declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = [PIN.match(line) for group in groups for line in group]
    assert all(pins), "every dependency is pinned exactly"
    return {_name(pin[1]): pin[2] for pin in pins if pin}


def test_the_lock_has_no_local_versions_and_no_packages_of_one_machines_gpu() -> None:
    """The same file must give a user with a GPU the CUDA build, whose own dependencies it must not name."""
    lock = _lock()
    assert [version for version in lock.values() if "+" in version] == []
    assert [name for name in lock if name.startswith("nvidia-") or name == "triton"] == []


def test_the_lock_and_pyproject_agree() -> None:
    lock = _lock()
    assert {name: version for name, version in _declared().items() if lock.get(name) != version} == {}


def test_what_is_installed_is_what_the_lock_says() -> None:
    installed = {_name(found.metadata["Name"]): found.version.partition("+")[0] for found in distributions()}
    assert {
        name: (version, installed.get(name)) for name, version in _lock().items() if installed.get(name) != version
    } == {}


def test_the_control_plane_does_not_depend_on_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heavy = {"torch", "transformers", "peft", "trl", "accelerate", "lm-eval", "deepspeed", "bitsandbytes", "datasets"}
    assert {_name(line.partition("==")[0]) for line in project["dependencies"]} & heavy == set()


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    script = (
        "import sys, ftplatform.definitions\n"
        "heavy = ['torch', 'transformers', 'peft', 'lm_eval', 'mlflow', 'great_expectations', 'kubernetes', 'spacy', 'matplotlib', 'optuna']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_gpu_extras_import_on_a_cpu() -> None:
    subprocess.run(
        [sys.executable, "-c", "import deepspeed, bitsandbytes"], capture_output=True, check=True, timeout=300
    )


def test_every_asset_tells_a_person_what_it_is() -> None:
    from ftplatform.definitions import defs

    specs = defs.resolve_all_asset_specs()
    assert len(specs) == 14
    for spec in specs:
        assert spec.owners, spec.key
        assert spec.group_name != "default", spec.key
        assert spec.kinds, spec.key
        assert spec.description, spec.key
        assert spec.partitions_def is not None, spec.key


def test_every_check_has_its_assets_partitions() -> None:
    """Without them one tenant's pass would hide another's failure."""
    from ftplatform.assets import ALL

    for asset in ALL:
        for spec in asset.check_specs:
            assert spec.partitions_def == asset.partitions_def, spec.key


def test_the_bare_instance_file_needs_no_variables() -> None:
    text = (ROOT / "dagster.yaml").read_text()
    assert "env:" not in text
    assert yaml.safe_load(text)["storage"]["sqlite"]["base_dir"] == ".ftplatform/dagster/storage"


@pytest.mark.parametrize(
    "command", [["dg", "check", "defs"], ["dagster", "definitions", "validate", "-m", "ftplatform.definitions"]]
)
def test_both_of_dagsters_command_lines_load_the_project(command: list[str]) -> None:
    program = str(Path(sys.executable).parent / command[0])
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
