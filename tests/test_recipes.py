"""Recipe files: inheritance, checks without a server, differences, the editor's schema, and what is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from plan_configs import CONFIGS
from training_support import store_in
from typer.testing import CliRunner

from ftplatform.catalog import Catalog, open_catalog
from ftplatform.catalog.tables import recipes as table
from ftplatform.cli import app
from ftplatform.core.errors import Conflict, InvalidConfig, NotFound
from ftplatform.core.ids import RecipeKey
from ftplatform.core.recipe import LoraConfig, Recipe, TrainingConfig, parse_recipe
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes import in_folder, load, read_recipe, read_resolved, shipped
from ftplatform.recipes.check import check
from ftplatform.recipes.diff import diff
from ftplatform.recipes.matrix import combinations
from ftplatform.recipes.modules import MODULES, module_problems
from ftplatform.recipes.registered import origins, register, registered_parents
from ftplatform.recipes.resolve import Parent, Resolved, resolve
from ftplatform.recipes.rules import contradictions
from ftplatform.recipes.schema import SCHEMA_FILE, recipe_schema, schema_text
from ftplatform.recipes.shown import leading_comments
from ftplatform.store import ObjectStore, open_store

PARENT = {
    "name": "parent",
    "version": 2,
    "description": "the one above",
    "base": "starter",
    "lora": {"rank": 8},
    "training": {"learning_rate": 0.01, "epochs": 5},
    "mix": {"by": "domain", "weights": {"a": 1.0}},
}
CHILD = {"name": "child", "version": 1, "extends": "parent@2", "lora": {"alpha": 4}, "training": {"epochs": 1}}
RUNNER = CliRunner()


def no_parent(key: RecipeKey) -> Parent:
    raise NotFound(f"no {key} here")


def one_parent(value: dict[str, Any], extends: str | None = None) -> Any:
    def find(key: RecipeKey) -> Parent:
        recipe = parse_recipe(value)
        if key != recipe.key:
            raise NotFound(f"no {key} here")
        return Parent(recipe.model_dump(mode="json"), extends)

    return find


def recipe(**values: Any) -> Recipe:
    return parse_recipe({"name": "one", "version": 1, "base": "starter", **values})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(store_in(tmp_path)[0])


# Inheritance


def test_a_child_has_its_parents_values_where_it_says_nothing() -> None:
    found = resolve(CHILD, one_parent(PARENT))
    assert (found.recipe.name, found.recipe.description, found.extends) == ("child", "", "parent@2")
    assert found.recipe.lora == LoraConfig(rank=8, alpha=4)
    assert found.recipe.training == TrainingConfig(learning_rate=0.01, epochs=1)
    wanted = {
        "name": "recipe",
        "description": "default",
        "base": "parent parent@2",
        "lora.rank": "parent parent@2",
        "lora.alpha": "recipe",
        "training.epochs": "recipe",
        "training.learning_rate": "parent parent@2",
        "mix.weights": "parent parent@2",
    }
    assert {name: found.origins[name] for name in wanted} == wanted


def test_tables_are_replaced_and_null_takes_a_group_away() -> None:
    replaced = resolve({**CHILD, "mix": {"weights": {"b": 2.0}}}, one_parent(PARENT)).recipe
    assert replaced.mix is not None
    assert (replaced.mix.by, replaced.mix.weights) == ("domain", {"b": 2.0})
    gone = resolve({**CHILD, "mix": None}, one_parent(PARENT))
    assert gone.recipe.mix is None
    assert gone.origins["mix"] == "recipe"


def test_without_a_parent_a_value_is_the_recipes_or_a_default() -> None:
    found = resolve(PARENT, no_parent)
    assert (found.origins["lora.rank"], found.origins["lora.alpha"]) == ("recipe", "default")
    assert set(found.origins.values()) == {"recipe", "default"}


def test_a_chain_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="extends parent@2, which extends above@1: inheritance has one level"):
        resolve(CHILD, one_parent(PARENT, extends="above@1"))


def test_a_parent_is_found_beside_the_file_and_a_chain_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "any name.yaml").write_text(yaml.safe_dump(PARENT))
    (tmp_path / "broken.yaml").write_text("parent: [")
    (tmp_path / "child.yaml").write_text(yaml.safe_dump(CHILD))
    grandchild = {**CHILD, "name": "grandchild", "extends": "child@1"}
    (tmp_path / "grandchild.yaml").write_text(yaml.safe_dump(grandchild))
    assert read_recipe(tmp_path / "child.yaml").lora.rank == 8
    with pytest.raises(InvalidConfig, match="inheritance has one level"):
        read_recipe(tmp_path / "grandchild.yaml")
    with pytest.raises(NotFound, match="recipe parent@9 is not in"):
        in_folder(tmp_path)(RecipeKey("parent", 9))


# Registering


def test_a_registered_recipe_is_complete_and_knows_where_its_values_came_from(
    catalog: Catalog, store: ObjectStore
) -> None:
    assert register(catalog, store, resolve(PARENT, no_parent))
    child = resolve(CHILD, registered_parents(catalog, store))
    assert register(catalog, store, child)
    assert not register(catalog, store, child)
    found = catalog.recipes.get(RecipeKey("child", 1))
    assert found == child.recipe
    assert origins(store, found) == child.origins
    with pytest.raises(InvalidConfig, match="inheritance has one level"):
        resolve({**CHILD, "name": "third", "extends": "child@1"}, registered_parents(catalog, store))


def test_origins_of_a_recipe_registered_without_them_are_told_by_its_values(
    catalog: Catalog, store: ObjectStore
) -> None:
    catalog.recipes.add(parse_recipe(PARENT))
    found = origins(store, catalog.recipes.get(RecipeKey("parent", 2)))
    assert (found["lora.rank"], found["lora.alpha"], found["training.learning_rate"]) == ("recipe", "default", "recipe")


def test_a_recipe_of_an_older_platform_is_the_same_after_fields_were_added(catalog: Catalog) -> None:
    """What stood in the catalog before a field was known lacks it, in the body and in the digest."""
    old = recipe(training={"learning_rate": 0.01})
    body = old.model_dump(mode="json")
    for name in ("quantization", "optimizer", "frozen_layers", "frozen_embeddings", "virtual_tokens"):
        del body["training"][name]
    for name in ("exclude_modules", "layers_to_transform", "use_rslora", "use_dora", "init_lora_weights"):
        del body["lora"][name]
    with catalog.recipes.engine.begin() as db:
        db.execute(table.insert().values(recipe="one@1", digest="0" * 64, body=body, created_at=1.0))
    assert not catalog.recipes.add(old)
    assert catalog.recipes.get(RecipeKey("one", 1)) == old
    with pytest.raises(Conflict, match="set version: 2"):
        catalog.recipes.add(recipe(training={"learning_rate": 0.01, "optimizer": "adamw_8bit"}))


def test_the_recipes_of_the_first_release_train_as_they_did() -> None:
    names = ("method", "parameterisation", "replay", "mix")
    found = {name: read_recipe(shipped()[name]) for name in ("tiny-lora", "tiny-full", "tiny-lora-too-hot")}
    assert {name: one.lora for name, one in found.items()} == dict.fromkeys(found, LoraConfig())
    rates = {"tiny-lora": (4e-3, 220), "tiny-full": (1e-3, 160), "tiny-lora-too-hot": (4e-2, 220)}
    for name, one in found.items():
        rate, steps = rates[name]
        assert one.training == TrainingConfig(
            learning_rate=rate, max_steps=steps, batch_size=8, max_length=128, checkpoint_every=60
        )
        kind = "full" if name == "tiny-full" else "lora"
        assert [getattr(one, field) for field in names] == ["sft", kind, 0.5, None]


# Contradictions


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"parameterisation": "full", "training": {"quantization": "nf4"}}, "training.quantization"),
        ({"parameterisation": "full", "lora": {"use_dora": True}}, "lora.use_dora"),
        ({"parameterisation": "ia3", "lora": {"layers_to_transform": [1]}}, "lora.layers_to_transform"),
        ({"training": {"frozen_layers": [0]}}, "training.frozen_layers"),
        ({"training": {"frozen_embeddings": True}}, "training.frozen_layers"),
        ({"parameterisation": "full", "training": {"frozen_layers": [1, 1]}}, "training.frozen_layers"),
        ({"lora": {"layers_to_transform": [-1]}}, "lora.layers_to_transform"),
        ({"lora": {"init_lora_weights": "pissa"}, "training": {"quantization": "int8"}}, "lora.init_lora_weights"),
        ({"lora": {"init_lora_weights": "pissa", "use_dora": True}}, "lora.init_lora_weights"),
        ({"lora": {"exclude_modules": ["q_proj"]}}, "lora.exclude_modules"),
        ({"lora": {"target_modules": ["banana"]}}, "lora.target_modules"),
        ({"lora": {"target_modules": ["q_proj", "lm_head"]}}, "lora.target_modules"),
        ({"lora": {"target_modules": ["embed_tokens"]}}, "lora.target_modules"),
        ({"lora": {"target_modules": []}}, "lora.target_modules"),
    ],
)
def test_fields_that_mean_nothing_beside_the_others_are_refused(
    catalog: Catalog, store: ObjectStore, values: dict[str, Any], field: str
) -> None:
    found = recipe(**{**values, "training": {"learning_rate": 0.1, **values.get("training", {})}})
    assert list(contradictions(found)) == [field]
    with pytest.raises(InvalidConfig, match=f"one@1 cannot be added:\n  {field}: "):
        register(catalog, store, Resolved(found, None, {}))


def test_what_fits_together_is_not_refused() -> None:
    sound = [
        recipe(training={"learning_rate": 0.1}),
        recipe(parameterisation="full", training={"learning_rate": 0.1}),
        recipe(training={"learning_rate": 0.1}, lora={"use_dora": True, "layers_to_transform": [0, 2]}),
        *(recipe(parameterisation=kind, training={"learning_rate": 0.1}) for kind in ("ia3", "prefix", "prompt")),
        recipe(parameterisation="prompt", init_from="champion", training={"learning_rate": 0.1}),
        recipe(lora={"target_modules": ["c_attn", "qkv_proj"]}, training={"learning_rate": 0.1}),
        # Says nothing there, and is in no one's way.
        recipe(parameterisation="full", lora={"target_modules": ["banana"]}, training={"learning_rate": 0.1}),
        recipe(parameterisation="full", training={"learning_rate": 0.1, "weights": "bf16", "optimizer": "adamw_8bit"}),
    ]
    assert [contradictions(one) for one in sound] == [{}] * len(sound)


def test_the_modules_are_those_of_the_architectures_that_can_be_planned() -> None:
    known = {name for config in CONFIGS.values() for name in ModelShape.from_config(config).targets}
    assert known == set(MODULES)
    said = module_problems(LoraConfig(target_modules=("q_prj", "lm_head")))["lora.target_modules"]
    assert said.startswith("lm_head: an adapter on embeddings")
    assert "q_prj: no known architecture has such a layer, did you mean q_proj?" in said


# Checks, differences, schema


def test_every_problem_is_told_at_once_with_the_field_that_was_meant() -> None:
    wrong = {
        "name": "x y",
        "version": 0,
        "learning_rate": 0.1,
        "bas": "starter",
        "training": {"epoch": 3, "batch_size": "many"},
        "lora": {"target_module": ["q_proj"]},
        "nothing_like_it_at_all": 1,
    }
    found = {problem.field: problem.message for problem in check(wrong, no_parent)}
    assert set(found) == {
        "name", "base", "training.learning_rate", "training.batch_size", "training.epoch", "lora.target_module",
        "learning_rate", "bas", "nothing_like_it_at_all",
    }  # fmt: skip
    assert found["training.epoch"] == "unknown field; did you mean training.epochs?"
    assert found["lora.target_module"] == "unknown field; did you mean lora.target_modules?"
    assert found["learning_rate"] == "unknown field; it stands under training.learning_rate"
    assert found["bas"] == "unknown field; did you mean base?"
    assert found["nothing_like_it_at_all"] == "unknown field"
    assert found["base"] == "required, and missing"
    assert found["training.batch_size"].endswith("found 'many'")


def test_a_missing_parent_is_one_problem_and_its_fields_are_not_asked_for() -> None:
    found = check({"name": "child", "version": 1, "extends": "gone@1", "rnak": 2}, no_parent)
    assert [problem.field for problem in found] == ["extends", "rnak"]
    assert [p.field for p in check({**CHILD, "extends": "not a key"}, no_parent)] == ["extends"]
    assert [p.message for p in check([1], no_parent)] == ["found list: accepted is a mapping of fields"]


def test_a_difference_is_one_of_values_and_not_of_spelling() -> None:
    left = recipe(training={"learning_rate": 0.1}, description="a")
    assert diff(left, recipe(training={"learning_rate": 0.1, "epochs": 3}, lora={"rank": 16})) == []
    changes = diff(left, recipe(training={"learning_rate": 0.2}, mix={"by": "domain"}))
    assert [(c.field, c.before, c.after) for c in changes][:2] == [
        ("training.learning_rate", 0.1, 0.2),
        ("mix.by", None, "domain"),
    ]


def test_the_shipped_schema_is_that_of_the_fields() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run: ft recipe schema --out ftplatform/recipes/recipe.schema.json"
    )


def test_the_schema_takes_what_the_platform_takes() -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())

    def wrong(value: Any) -> list[str]:
        return sorted(error.message for error in validator.iter_errors(value))

    for path in shipped().values():
        assert wrong(load(path)) == [], path
    assert wrong(CHILD) == []
    assert wrong({"name": "a", "version": 1, "base": "b", "training": {}}) == ["'learning_rate' is a required property"]
    assert wrong({"name": "a", "version": 1}) == ["'base' is a required property", "'training' is a required property"]
    assert wrong({**PARENT, "lorra": 1}) == ["Additional properties are not allowed ('lorra' was unexpected)"]
    assert wrong({**CHILD, "extends": "parent"})


@pytest.mark.parametrize("name", list(shipped()))
def test_a_shipped_recipe_is_sound_and_says_what_it_is(name: str) -> None:
    path = shipped()[name]
    assert check(load(path), in_folder(path.parent)) == []
    found = read_resolved(path)
    assert found.recipe.name == name
    assert found.recipe.description
    # The line that tells an editor where the schema is, from beside the file.
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../recipe.schema.json"


@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("tiny")])
def test_the_comments_of_a_shipped_recipe_name_its_rate_and_base(name: str) -> None:
    found, comments = read_recipe(shipped()[name]), leading_comments(shipped()[name].read_text(encoding="utf-8"))
    # ORPO's source has the rate of full weights, and the comment says that LoRA takes ten times as much.
    rate = found.training.learning_rate / (10 if found.method == "orpo" else 1)
    assert f"{rate:.0e}".replace("e-0", "e-") in comments
    assert found.method != "orpo" or "LoRA wants ten times as much" in comments
    assert f"{found.hardware.gpus} x {found.hardware.gpu}" in found.description
    assert comments.startswith(f"# {found.description[0].upper()}{found.description[1:]}.")
    assert f"ft base add {found.base} --hub" in comments


def test_the_page_counts_what_the_matrix_trains() -> None:
    sensible = sum(why is None for *_, why in combinations())
    page = Path(__file__).parents[1] / "docs" / "recipes.md"
    assert f"trains each of the {sensible} for two steps" in page.read_text(encoding="utf-8")


# The commands


def ft(*arguments: str) -> Any:
    return RUNNER.invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_check_tells_all_and_ends_with_one(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(PARENT))
    bad.write_text("name: bad\nversion: 1\nbase: starter\ntraining: {learning_rate: 1, epoch: 2}\n")
    found = ft("recipe", "check", str(good))
    assert (found.exit_code, "fine" in found.output) == (0, True)
    found = ft("recipe", "check", str(good), str(bad))
    assert found.exit_code == 1
    assert "training.epoch: unknown field; did you mean training.epochs?" in found.output


def test_a_recipe_is_added_shown_with_origins_and_compared(tmp_path: Path) -> None:
    for value in (PARENT, CHILD):
        (tmp_path / f"{value['name']}.yaml").write_text(yaml.safe_dump(value))
    assert ft("recipe", "add", str(tmp_path / "parent.yaml")).exit_code == 0
    (tmp_path / "parent.yaml").unlink()
    assert "child@1 added" in ft("recipe", "add", str(tmp_path / "child.yaml")).output
    assert "child@1 was there already" in ft("recipe", "add", str(tmp_path / "child.yaml")).output
    shown = yaml.safe_load(ft("recipe", "show", "child@1").output)
    assert (shown["lora"]["rank"], "extends" in shown) == (8, False)
    lines = [line.split() for line in ft("recipe", "show", "child@1", "--resolved").output.splitlines()]
    cells = {line[1]: line[3:-1] for line in lines if len(line) > 3}
    assert cells["lora.rank"] == ["8", "│", "parent", "parent@2"]
    assert cells["training.epochs"] == ["1.0", "│", "recipe"]
    assert cells["training.seed"] == ["17", "│", "parent", "parent@2", "(default)"]
    compared = ft("recipe", "diff", "parent@2", str(tmp_path / "child.yaml")).output
    assert [word in compared for word in ("lora.alpha", "training.epochs", "training.seed")] == [True, True, False]
    assert "train in the same way" in ft("recipe", "diff", "child@1", str(tmp_path / "child.yaml")).output
    assert "tiny-lora" in ft("recipe", "list").output


def test_a_shipped_recipe_is_shown_with_where_its_numbers_come_from() -> None:
    found = ft("recipe", "show", "llama-8b-full")
    assert found.exit_code == 0
    comments, _, _ = found.output.partition("name: ")
    assert comments.startswith("# ")
    assert all(line.startswith("# ") for line in comments.splitlines())
    assert "yaml-language-server" not in comments
    shown = yaml.safe_load(found.output)
    assert parse_recipe(shown) == read_recipe(shipped()["llama-8b-full"])
    assert {"training", "hardware"} < set(shown)
    # Groups that such a training does not use.
    assert not {"lora", "dpo", "grpo", "options", "mix", "search"} & set(shown)
    assert {"lora", "dpo", "grpo"} < set(yaml.safe_load(ft("recipe", "show", "llama-8b-full", "--all").output))
    assert "dpo" in yaml.safe_load(ft("recipe", "show", "llama-8b-dpo").output)
    resolved = ft("recipe", "show", "llama-8b-dpo", "--resolved").output
    assert ["│ dpo.beta" in resolved, "│ kto.beta" in resolved] == [True, False]


def test_a_plan_is_of_a_registered_recipe() -> None:
    found = ft("recipe", "show", "tiny-lora", "--resolved", "--dataset", "acme/support")
    assert "--dataset needs a registered recipe" in str(found.exception)


def test_schema_prints_the_schema_or_writes_it(tmp_path: Path) -> None:
    assert ft("recipe", "schema").output == schema_text()
    ft("recipe", "schema", "--out", str(tmp_path / "s.json"))
    assert (tmp_path / "s.json").read_text() == schema_text()
