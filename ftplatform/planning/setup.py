"""What is trained and how, as far as memory, speed and serving are concerned: a recipe with its base model left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ftplatform.core.errors import PlanRefused
from ftplatform.core.methods import find_method
from ftplatform.core.recipe import ATTENTION_AND_MLP, LoraConfig, Optimizer, Parameterisation, Recipe
from ftplatform.planning.shapes import Linear, ModelShape

STATE_BYTES: dict[Optimizer, float] = {
    "adamw": 8.0,
    "adamw_8bit": 2 * (1 + 4 / 256),
    "paged_adamw_8bit": 0.0,
    "paged_adamw_32bit": 0.0,
}
"""Bytes of the two moments per trained weight: fp32; one byte and a scale per 256 (Dettmers et al. 2021, section 2); paged states
live in host memory and visit the GPU when there is room.
"""
QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Per weight of the blocks' matrices: 4 bits, an 8-bit scale per 64 and an fp32 scale per 256 of those (Dettmers et al. 2023,
section 3: 0.127 bits per weight); int8 has one scale per row, which is counted with the workspace.
"""
_IA3 = ("k_proj", "v_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Setup:
    """Field names are the recipe's; ``weights`` is the type that trained full weights and their gradients are kept in."""

    parameterisation: Parameterisation = "lora"
    method: str = "sft"
    lora: LoraConfig | None = None
    quantization: Literal["none", "nf4", "int8"] = "none"
    optimizer: Optimizer = "adamw"
    precision: Literal["fp32", "bf16"] = "bf16"
    weights: Literal["fp32", "bf16"] = "fp32"
    qat: Literal["none", "int4", "int8-int4"] = "none"
    virtual_tokens: int = 20
    frozen_layers: tuple[int, ...] = ()
    frozen_embeddings: bool = False
    modules: tuple[str, ...] | None = None
    """LoRA's target modules; None means every linear layer of the blocks."""
    group: int = 1
    """Answers per prompt, for methods that generate."""
    teacher: int = 0
    """Parameters of the frozen model that a distillation learns from."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Setup:
        training = recipe.training
        return cls(
            parameterisation=recipe.parameterisation,
            method=recipe.method,
            lora=recipe.lora,
            quantization=training.quantization,
            optimizer=training.optimizer,
            precision=training.precision,
            weights=training.weights,
            qat=training.qat,
            virtual_tokens=training.virtual_tokens,
            frozen_layers=training.frozen_layers,
            frozen_embeddings=training.frozen_embeddings,
            modules=None if set(recipe.lora.target_modules) == set(ATTENTION_AND_MLP) else recipe.lora.target_modules,
            group=recipe.method_options.get("group_size", 1),
        )

    @property
    def full(self) -> bool:
        return self.parameterisation == "full"

    @property
    def sequences(self) -> int:
        """Sequences in the forward pass of one unit of the batch: two of a pair, a prompt's group of answers."""
        return find_method(self.method).sequences * self.group

    @property
    def rank(self) -> int:
        return (self.lora or LoraConfig()).rank

    @property
    def name(self) -> str:
        """What people call it: ``qlora``, ``lora-int8``, ``full``; with the method in front where it is not SFT."""
        kind: str = self.parameterisation
        if self.quantization != "none":
            kind = "qlora" if (kind, self.quantization) == ("lora", "nf4") else f"{kind}-{self.quantization}"
        kind += f"-qat-{self.qat}" if self.qat != "none" else ""
        return kind if self.method == "sft" else f"{self.method}-{kind}"

    @property
    def measured_as(self) -> str:
        """The name, with what else decides about memory and speed: measurements of one are none of another."""
        kept = "-bf16" if self.full and self.weights == "bf16" else ""
        states = "" if self.optimizer == "adamw" else f"-{self.optimizer}"
        rounded = "" if self.qat == "none" else f"-qat-{self.qat}"
        return f"{self.name}{kept}{states}{rounded}"

    @property
    def words(self) -> str:
        """The same for a sentence, with what decides about memory."""
        if not self.full:
            rank = f" rank {self.rank}" if self.parameterisation == "lora" else ""
            kept = {"none": self.precision, "nf4": "4-bit (nf4)", "int8": "8-bit"}[self.quantization]
            return f"{self.name}{rank} on a {kept} base"
        states = {"adamw": "AdamW", "adamw_8bit": "8-bit AdamW"}.get(self.optimizer, "paged AdamW")
        kept = "bf16 weights and gradients" if self.weights == "bf16" else "fp32 weights"
        return f"{self.name} with {kept} and {states}"

    def with_rank(self, rank: int) -> Setup:
        lora = self.lora or LoraConfig()
        return replace(self, lora=lora.model_copy(update={"rank": rank, "alpha": 2.0 * rank}))


def targeted(setup: Setup, shape: ModelShape) -> list[tuple[Linear, int]]:
    """Linear layers that carry an adapter, with the number of blocks that have one.

    Raises:
        PlanRefused: a module or block that the model does not have.
    """
    if setup.parameterisation == "ia3":
        return shape.selected(_IA3, "IA3")
    if setup.parameterisation != "lora":
        return []
    lora = setup.lora or LoraConfig()
    chosen = [
        (linear, blocks)
        for linear, blocks in shape.selected(setup.modules or shape.targets)
        if linear.name not in lora.exclude_modules
    ]
    if beyond := [layer for layer in lora.layers_to_transform if not 0 <= layer < shape.layers]:
        raise PlanRefused(
            f"lora.layers_to_transform names blocks {beyond}; this model has blocks 0 to {shape.layers - 1}"
        )
    if lora.layers_to_transform:
        return [(linear, min(blocks, len(set(lora.layers_to_transform)))) for linear, blocks in chosen]
    return chosen


def resolved_lora(recipe: Recipe, shape: ModelShape) -> LoraConfig:
    """The recipe's LoRA with the names of its layers in this model, as PEFT has to be told them."""
    setup = Setup.from_recipe(recipe)
    if recipe.parameterisation != "lora" or setup.modules is not None:
        return recipe.lora
    return recipe.lora.model_copy(update={"target_modules": shape.targets})


def trained_parameters(setup: Setup, shape: ModelShape) -> int:
    """Weights that get a gradient; a payload-side test compares adapters with PEFT's, element by element.

    LoRA: rank x (inputs + outputs) a matrix (Hu et al. 2021), and its output magnitudes with DoRA (Liu et al. 2024); IA3: a factor
    per key, value and inner activation (Liu et al. 2022); prefix: a key and a value per block and position (Li and Liang 2021);
    prompt: an embedding per position (Lester et al. 2021).
    """
    if setup.full:
        if beyond := [layer for layer in setup.frozen_layers if not 0 <= layer < shape.layers]:
            raise PlanRefused(
                f"training.frozen_layers names blocks {beyond}; this model has blocks 0 to {shape.layers - 1}"
            )
        frozen = len(set(setup.frozen_layers)) * shape.block
        return shape.parameters - frozen - (shape.vocabulary * shape.hidden if setup.frozen_embeddings else 0)
    if setup.parameterisation == "prefix":
        return setup.virtual_tokens * shape.layers * 2 * shape.key_value
    if setup.parameterisation == "prompt":
        return setup.virtual_tokens * shape.hidden
    chosen = targeted(setup, shape)
    if setup.parameterisation == "ia3":
        return sum((linear.inputs if linear.name == "down_proj" else linear.outputs) * n for linear, n in chosen)
    lora = setup.lora or LoraConfig()
    magnitudes = sum(linear.outputs * n for linear, n in chosen) if lora.use_dora else 0
    return sum(lora.rank * (linear.inputs + linear.outputs) * n for linear, n in chosen) + magnitudes


def reference_copies(setup: Setup) -> int:
    """Frozen copies of the weights beside the trained ones: DPO and KTO compute the reference before training, so none."""
    return 0 if not find_method(setup.method).generates else int(setup.full)
