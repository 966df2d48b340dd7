"""A job of every recipe that ships passes the checks of its plan on the hardware that the recipe names."""

from __future__ import annotations

import pytest
from plan_configs import CONFIGS
from test_plan_line import base_of
from test_recipes_shipped import BASES as FAMILIES

from ftplatform.core.manifests import CuratedDataset
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.job_plan import Inputs, Site, make_plan
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes import read_recipe, shipped

CATALOGUE = load_hardware()
# The starter model (training/starter.py) has the vocabulary of its own text; 4096 is more.
STARTER = {
    **CONFIGS["llama-3-8b"], "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 512,
}  # fmt: skip
BASES = {**FAMILIES, "starter": STARTER}


@pytest.mark.parametrize("name", shipped())
def test_a_job_of_a_shipped_recipe_passes_its_plan(name: str) -> None:
    recipe = read_recipe(shipped()[name])
    shape = ModelShape.from_config(BASES[recipe.base])
    site = Site(gpus=("cpu",) if recipe.base == "starter" else (recipe.hardware.gpu,), local=recipe.base == "starter")
    curated = CuratedDataset(
        dataset="acme/support", splits={}, rows={"train": 2000, "test": 100}, config="c", removed={}, pii={}
    )
    # Rows of a third of a sequence, as chat rows are.
    tokens = 2000 * recipe.training.max_length // 3
    base = base_of(shape).model_copy(update={"replay": "r"})
    inputs = Inputs(curated, base, BASES[recipe.base], None, (), tokens)
    made, checks = make_plan(recipe, inputs, CATALOGUE, site)
    assert {check.name: check.message for check in checks if not check.passed} == {}
    assert site.local or (made.placement.gpu, made.placement.gpus) == (recipe.hardware.gpu, recipe.hardware.gpus)
