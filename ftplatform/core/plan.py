"""The plan: a job with every default filled in and every input pinned by digest."""

from __future__ import annotations

from typing import Any, Literal

from ftplatform.core.frozen import Frozen
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.methods import Method
from ftplatform.core.recipe import LoraConfig, MixConfig, Parameterisation, Strategy, TrainingConfig


class MemoryEstimate(Frozen):
    """Gigabytes (10**9 bytes) per GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    other: float
    total: float


class Placement(Frozen):
    """What a pod, or a local process, is given."""

    gpu: str
    """Entry of the hardware catalogue; ``cpu`` on a machine without one."""
    gpus: int
    nodes: int = 1
    """Machines that the GPUs stand in, equally many in each."""
    spot: bool
    priority: Literal["low", "normal", "high"]
    shared_memory_gb: float
    image: str | None


class PinnedSuite(Frozen):
    name: str
    digest: str
    """Of the suite's definition and items."""
    margin: float
    n: int


class PinnedChampion(Frozen):
    version: int
    kind: Literal["lora", "full"]
    weights: str
    base_weights: str


class Plan(Frozen):
    dataset: str
    recipe: str
    recipe_digest: str
    overrides: dict[str, Any] = {}
    """Dotted recipe field -> value that the job asked for in place of the recipe's; everything below is with them."""
    curated: CuratedDataset
    base: BaseModel
    champion: PinnedChampion | None
    suites: tuple[PinnedSuite, ...]
    method: Method
    method_options: dict[str, Any] = {}
    """The method's, every default filled in."""
    parameterisation: Parameterisation
    init: PinnedChampion | None = None
    """The version that training starts from; None starts from the base."""
    lora: LoraConfig
    training: TrainingConfig
    mix: MixConfig | None = None
    replay: float
    micro_batch: int
    accumulation: int
    strategy: Strategy = "single"
    gradient_checkpointing: bool = False
    steps: int
    train_tokens: int
    """Tokens of the training split once, before padding."""
    placement: Placement
    memory_gb: MemoryEstimate
    hours: tuple[float, float]
    price: tuple[float, float]
    currency: str
    servable: bool
    reasons: tuple[str, ...]
    """Sentences: why these choices."""
    rejected: tuple[dict[str, str], ...] = ()
    """Cheaper and simpler choices as {option, why}."""
