"""PiSSA's start, computed a layer at a time: PEFT's own numbers, and not rounded with a bf16 base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory_support import bf16_base
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.utils import get_peft_model_state_dict

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.training import adapters
from ftplatform.training.adapters import add_adapter
from ftplatform.training.model import load_base

LORA = LoraConfig(rank=8, alpha=16, target_modules=("q_proj", "down_proj"), init_lora_weights="pissa")
TRAINING = TrainingConfig(learning_rate=1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bf16_base(tmp_path_factory.mktemp("base"), blocks=2)


def test_the_start_is_pefts_own_to_the_bit_and_so_are_the_random_numbers_after_it(base: Path) -> None:
    torch.manual_seed(4)
    ours, next_of_ours = add_adapter(load_base(base), "lora", LORA, TRAINING), torch.rand(3)
    torch.manual_seed(4)
    config = PeftLoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM"
    )
    theirs, next_of_theirs = get_peft_model(load_base(base), config), torch.rand(3)
    assert torch.equal(next_of_ours, next_of_theirs)
    for (name, one), (other_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad, name
    assert ours.peft_config["default"].init_lora_weights == "pissa"
    assert ours.pissa_initial.keys() == get_peft_model_state_dict(theirs, save_embedding_layers=False).keys()


def test_on_a_base_in_bf16_nothing_but_the_residual_is_rounded(base: Path) -> None:
    whole = dict(load_base(base, precision="bf16").named_parameters())
    model = add_adapter(load_base(base, precision="bf16"), "lora", LORA, TRAINING)
    for name, layer in model.named_modules():
        if hasattr(layer, "pissa_init"):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            assert (a.dtype, b.dtype, layer.base_layer.weight.dtype) == (torch.float32, torch.float32, torch.bfloat16)
            wanted = whole[f"{name.removeprefix('base_model.model.')}.weight"].float()
            principal = layer.scaling["default"] * (b @ a)
            _, values, _ = torch.linalg.svd(wanted)
            found = torch.linalg.svdvals(principal)[:8]
            torch.testing.assert_close(found, values[:8], rtol=1e-5, atol=1e-5)
            # bf16 keeps 8 binary digits of the residual.
            assert (layer.base_layer.weight.float() + principal - wanted).abs().max() <= wanted.abs().max() / 256


def test_other_layers_than_linear_ones_are_refused(base: Path) -> None:
    plain = load_base(base)
    plain.config.tie_word_embeddings = False
    model = get_peft_model(plain, PeftLoraConfig(r=2, target_modules=["embed_tokens"]))
    with pytest.raises(InvalidConfig, match="linear"):
        adapters.start_from_principal_part(model)
