"""A recipe: a versioned, complete description of how to train; key ``slug@N``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ftplatform.core.dataset_config import problems
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen
from ftplatform.core.ids import RecipeKey, check_slug

Method = Literal["sft"]
Parameterisation = Literal["lora", "full"]
ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraConfig(Frozen):
    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] = ATTENTION_AND_MLP


class TrainingConfig(Frozen):
    """Sizes are in packed sequences and tokens, rates are per optimizer step."""

    learning_rate: float = Field(gt=0)
    epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps; overrides ``epochs``."""
    batch_size: int = Field(8, ge=1)
    """Packed sequences per optimizer step, over all GPUs: the effective batch."""
    max_length: int = Field(512, ge=16)
    """Tokens per packed sequence; a longer row is refused or dropped by ``too_long``."""
    too_long: Literal["refuse", "drop"] = "drop"
    warmup_ratio: float = Field(0.05, ge=0.0, le=1.0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Attention dropout of the base model while training with full weights."""
    seed: int = Field(17, ge=0, le=2**31 - 1)
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 holds on GPUs; the plan turns it into fp32 on CPU, where it gains nothing."""
    checkpoint_every: int = Field(50, ge=1)
    """Optimizer steps between committed checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)


class MixConfig(Frozen):
    """How often the rows of each value of a tag are seen in an epoch; without it every row is seen once."""

    by: str
    """The tag, for example ``domain``, ``language`` or ``source``."""
    weights: dict[str, float] = {}
    """Wanted shares per value. With every value of the data named they are proportions; with some, shares that add up to
    less than 1, and the others divide the rest as they come.
    """
    temperature: float = Field(1.0, gt=0.0)
    """Without weights: shares proportional to ``rows ** (1 / temperature)``; 1 is natural, large is even."""
    max_repeat: float = Field(4.0, ge=1.0)
    """A row is seen at most this often per epoch, whatever the weights ask for."""
    max_rows: dict[str, int] = {}
    """Most rows per value."""


class HardwareConfig(Frozen):
    """Where it should run; ``gpu`` names an entry of the hardware catalogue, ``auto`` lets the planner choose."""

    gpu: str = "auto"
    gpus: int = Field(1, ge=1, le=32)
    spot: bool = False
    priority: Literal["low", "normal", "high"] = "normal"
    shared_memory_gb: float = Field(8.0, gt=0)
    max_price: float | None = Field(None, gt=0)
    """Currency units of the hardware catalogue; the plan refuses a job whose upper estimate is above it."""


class Recipe(Frozen):
    name: str
    version: int
    description: str = ""
    base: str
    """Slug of a registered base model; the plan pins its digest."""
    method: Method = "sft"
    parameterisation: Parameterisation = "lora"
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig
    mix: MixConfig | None = None
    replay: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of general rows mixed in against forgetting; needs a base that carries replay rows."""
    suites: tuple[str, ...] = ()
    hardware: HardwareConfig = HardwareConfig()
    image: str | None = None

    @field_validator("name")
    @classmethod
    def _name_is_a_slug(cls, value: str) -> str:
        return check_slug(value, "recipe")

    @field_validator("base")
    @classmethod
    def _base_is_a_slug(cls, value: str) -> str:
        return check_slug(value, "base model")

    @model_validator(mode="after")
    def _key_is_valid(self) -> Recipe:
        RecipeKey(self.name, self.version)
        return self

    @property
    def key(self) -> RecipeKey:
        return RecipeKey(self.name, self.version)


def parse_recipe(value: Any, where: str = "recipe") -> Recipe:
    """Build a recipe from parsed YAML.

    Raises:
        InvalidConfig: listing every wrong field at once.
    """
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise InvalidConfig(f"{where} cannot be used:\n{problems(error)}") from error
