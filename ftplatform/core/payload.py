"""The contract with a payload: one JSON spec in, one ``result.json`` out.

A payload is a program (``python -m ftplatform.training spec.json``) that knows nothing of Dagster and reads the environment
for nothing but its allow-list. It works in the folder of its spec, reads and writes bytes through the store the spec names, and

* appends a JSON line to ``progress.jsonl`` for people: ``{"time", "message"}`` plus ``step``/``of`` where it counts;
* touches ``heartbeat`` at least every ten seconds while it makes progress, every rank its own file;
* writes ``result.json`` (temporary name, fsync, rename; rank 0 only) exactly once, whatever the outcome. Other ranks leave
  ``error-rank{N}.txt``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ftplatform.core.frozen import Frozen
from ftplatform.core.methods import Method
from ftplatform.core.recipe import LoraConfig, Parameterisation, Strategy, TrainingConfig
from ftplatform.core.trackers import TrackerAddress

SPEC_FILE = "spec.json"
RESULT_FILE = "result.json"
PROGRESS_FILE = "progress.jsonl"
HEARTBEAT_FILE = "heartbeat"
"""Of rank 0, and of a payload without ranks; see ``heartbeat_file``."""

OutcomeName = Literal["done", "bad_data", "diverged", "out_of_memory", "preempted", "fenced", "failed"]


def heartbeat_file(rank: int) -> str:
    return f"{HEARTBEAT_FILE}-rank{rank}" if rank else HEARTBEAT_FILE


def stacks_file(rank: int) -> str:
    """Where a rank writes the stacks of its threads on SIGUSR1; ranks that share a log would write into each other."""
    return f"stacks-rank{rank}.txt"


class StoreAddress(Frozen):
    """Where the bytes are: ``file:///folder`` or ``s3://bucket/prefix``; credentials come by the environment's allow-list."""

    url: str
    endpoint: str | None = None


class Tracking(Frozen):
    """Who is told of metrics: MLflow, and the trackers of the setting."""

    uri: str
    experiment: str
    run_name: str
    tags: dict[str, str] = {}
    others: tuple[TrackerAddress, ...] = ()


class TrainSpec(Frozen):
    kind: Literal["train"] = "train"
    key: str
    """Cache key of the training: names the payload, its checkpoints and its fence."""
    store: StoreAddress
    base_weights: str
    shards: dict[str, tuple[str, ...]]
    """Objects by split, in order: ``train`` and, when there are such rows, ``validation``."""
    max_length: int
    method: Method
    options: dict[str, Any] = {}
    """The method's, every default filled in (``core.methods.method_options``)."""
    teacher_weights: str | None = None
    """Tree of the model that a distillation learns from."""
    parameterisation: Parameterisation
    init_weights: str | None = None
    """Tree that training starts from in place of the bare base: of the same parameterisation, or LoRA below virtual tokens."""
    lora: LoraConfig
    training: TrainingConfig
    micro_batch: int
    accumulation: int
    steps: int
    processes: int = 1
    """Ranks, one per GPU, over all nodes."""
    nodes: int = 1
    strategy: Strategy = "single"
    gradient_checkpointing: bool = False
    threads: int
    """Torch threads per process: part of the spec, because sums depend on it to the last bit."""
    tracking: Tracking | None = None
    probe: bool = False
    """Measure memory and speed alone: nothing is committed or saved."""
    peak_tflops: float | None = None
    """bf16 rate of one GPU by the hardware catalogue, which utilisation is told against; None measures this machine's."""


class SuiteSpec(Frozen):
    """``multiple_choice``: the choice with the highest log-probability; ``exact_match``: the greedy answer equals the reference."""

    name: str
    kind: Literal["multiple_choice", "exact_match"]
    items: str
    """Object: JSONL; see ``evaluation/items.py`` for the fields."""
    max_new_tokens: int = 32


class ModelSpec(Frozen):
    """One model to score: ``base`` alone, ``lora`` on the base, or ``full`` weights of its own."""

    name: str
    kind: Literal["base", "lora", "full"]
    base_weights: str
    weights: str | None = None
    scores: bool = False
    """A reward model: it gives every text a number, and answers nothing."""


class ScoreRequest(Frozen):
    model: ModelSpec
    suite: SuiteSpec
    cache: str
    """Cache key of this score; the result names its object under it."""


class EvalSpec(Frozen):
    kind: Literal["evaluate"] = "evaluate"
    key: str
    store: StoreAddress
    requests: tuple[ScoreRequest, ...]
    threads: int


class StarterSpec(Frozen):
    kind: Literal["starter"] = "starter"
    key: str
    store: StoreAddress
    seed: int
    steps: int
    threads: int


PayloadSpec = Annotated[TrainSpec | EvalSpec | StarterSpec, Field(discriminator="kind")]
PAYLOAD_SPEC: TypeAdapter[PayloadSpec] = TypeAdapter(PayloadSpec)
MODULES = {"train": "ftplatform.training", "evaluate": "ftplatform.evaluation", "starter": "ftplatform.training"}
"""The module a launcher runs for each kind of spec; only training is started under torchrun."""


class PayloadResult(Frozen):
    outcome: OutcomeName
    message: str
    """For ``done`` a sentence on what was made; otherwise what happened and whether a retry helps."""
    artifacts: dict[str, str] = {}
    """Digests of objects and trees put into the store."""
    numbers: dict[str, float] = {}
    """Seconds, steps, tokens, peak memory in bytes, losses."""
    resumed_from: int = 0
    """Optimizer step of the checkpoint this attempt began with; 0 for a fresh start."""
