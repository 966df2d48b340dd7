"""A recipe: a versioned, complete description of how to train; key ``slug@N``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ftplatform.core.dataset_config import problems
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen
from ftplatform.core.ids import BaseKey, RecipeKey, check_slug
from ftplatform.core.methods import (
    BUILT_IN,
    DistillationConfig,
    DpoConfig,
    GrpoConfig,
    KtoConfig,
    Method,
    OrpoConfig,
    RewardConfig,
    RlooConfig,
    method_options,
)
from ftplatform.core.search_config import SearchConfig

Parameterisation = Literal["lora", "full", "ia3", "prefix", "prompt"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"]
Strategy = Literal["single", "ddp", "fsdp2", "zero2", "zero3", "offload"]
"""How the training is divided: one process; a copy per GPU; sharded by FSDP2; DeepSpeed ZeRO-2, ZeRO-3, ZeRO-3 with optimizer
states in host memory.
"""
ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a block, by Llama's names. As ``lora.target_modules``, and as its default, they mean every linear layer of
the base model's blocks, whatever it calls them; a mixture's experts and router are parameters and no linear layers. The plan
fills in the names (``planning/setup.py``), so that recipes written before keep their digests.
"""


class LoraConfig(Frozen):
    """Field names are PEFT's, except ``rank`` and ``alpha`` (its ``r`` and ``lora_alpha``)."""

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] = ATTENTION_AND_MLP
    exclude_modules: tuple[str, ...] = ()
    """Modules without an adapter although ``target_modules`` names them, by name or by the end of their path."""
    layers_to_transform: tuple[int, ...] = ()
    """Numbers of the blocks that get adapters, from 0; empty means all."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (rank-stabilised LoRA, arXiv:2312.03732) and not by alpha / rank."""
    use_dora: bool = False
    """Train each weight's magnitude beside its direction (arXiv:2402.09353); serving engines do not switch such adapters."""
    init_lora_weights: Literal["default", "gaussian", "pissa"] = "default"
    """``pissa`` starts from the principal singular vectors (arXiv:2404.02948); it is saved as plain LoRA of twice the rank."""


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
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Of the frozen base weights under an adapter: nf4 with double quantization (QLoRA, arXiv:2305.14314), or LLM.int8."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """What full weights and their gradients are kept in while training; bf16 halves both and rounds every update."""
    qat: Literal["none", "int4", "int8-int4"] = "none"
    """Train through the rounding of a later quantization (arXiv:1712.05877; torchao): int4 weights in groups, or those with int8
    activations per token. What is saved are ordinary weights that survive it.
    """
    qat_group_size: int = Field(32, ge=2)
    """Weights that share a scale, along a layer's inputs."""
    optimizer: Optimizer = "adamw"
    """AdamW with fp32 states, 8-bit states (arXiv:2110.02861), or states paged to host memory when the GPU is full."""
    frozen_layers: tuple[int, ...] = ()
    """Numbers of the blocks that stay as they are with full weights, from 0."""
    frozen_embeddings: bool = False
    """Whether input embeddings (and an output layer tied to them) stay as they are with full weights."""
    virtual_tokens: int = Field(20, ge=1, le=1024)
    """Trained positions in front of every row, with ``prefix`` and ``prompt``."""
    gradient_checkpointing: bool | None = None
    """Compute activations again in the backward pass (arXiv:1604.06174): a third more time for much less memory; None lets the
    plan decide.
    """
    checkpoint_every: int = Field(50, ge=1)
    """Optimizer steps between committed checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    profile_steps: int = Field(0, ge=0, le=100)
    """Optimizer steps, from the third on, that are traced with the torch profiler; 0 traces none."""
    evaluate_every: int = Field(0, ge=0)
    """Optimizer steps between evaluations on the validation rows; 0 evaluates once, after the last step."""
    keep: Literal["last", "best"] = "last"
    """Whose weights are the result: those of the last step, or those of the best evaluation."""
    patience: int = Field(0, ge=0)
    """Evaluations in a row without a better one after which the training stops early; 0 never stops it."""

    @model_validator(mode="after")
    def _evaluates_what_it_chooses_by(self) -> TrainingConfig:
        if (self.keep == "best" or self.patience) and not self.evaluate_every:
            raise ValueError(
                "`keep: best` and `patience` choose by evaluations: set `evaluate_every`, for example to 50"
            )
        return self

    @property
    def uses_bitsandbytes(self) -> bool:
        return self.quantization != "none" or self.optimizer != "adamw"


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
    gpus: Annotated[int, Field(ge=1, le=32)] | Literal["auto"] = "auto"
    strategy: Strategy | Literal["auto"] = "auto"
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
    dpo: DpoConfig = DpoConfig()
    orpo: OrpoConfig = OrpoConfig()
    kto: KtoConfig = KtoConfig()
    reward: RewardConfig = RewardConfig()
    grpo: GrpoConfig = GrpoConfig()
    rloo: RlooConfig = RlooConfig()
    distillation: DistillationConfig = DistillationConfig()
    options: dict[str, Any] = {}
    """Of a method that a plug-in brought."""
    parameterisation: Parameterisation = "lora"
    init_from: str | int | None = None
    """Where training starts: ``champion`` (the dataset's model in service), a version number of the dataset's registered model,
    or a revision ``slug@revision8`` of the base; None starts from the base's newest revision. A version of the same
    parameterisation is trained on; LoRA under ``prefix`` or ``prompt`` stays as it is below them.
    """
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig
    mix: MixConfig | None = None
    replay: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of general rows mixed in against forgetting; needs a base that carries replay rows."""
    suites: tuple[str, ...] = ()
    search: SearchConfig | None = None
    """Values to try for better ones, by ``ft search``."""
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

    @field_validator("init_from")
    @classmethod
    def _start_is_known(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if value is None or value == "champion" or (isinstance(value, int) and value >= 1):
            return value
        if isinstance(value, str) and "@" in value:
            return str(BaseKey.parse(value))
        raise InvalidConfig(
            f"found {value!r}: accepted are champion, a version number from 1, and slug@revision8 of the base"
        )

    @model_validator(mode="after")
    def _key_is_valid(self) -> Recipe:
        RecipeKey(self.name, self.version)
        return self

    @model_validator(mode="after")
    def _method_has_what_it_needs(self) -> Recipe:
        _ = self.method_options
        return self

    @property
    def method_options(self) -> dict[str, Any]:
        """The chosen method's options, every default filled in; raises InvalidConfig."""
        if self.method not in BUILT_IN:
            return method_options(self.method, self.options)
        if self.options:
            raise InvalidConfig(
                f"`options` are for methods of plug-ins; those of {self.method} stand under `{self.method}`"
            )
        fields = getattr(self, self.method).model_dump(mode="json") if BUILT_IN[self.method].options else {}
        return method_options(self.method, fields)

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
