"""What is asked of the planner, and what it fills in where nothing was asked: epochs, batch, rank, setups worth trying."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ftplatform.core.recipe import LoraConfig, Strategy
from ftplatform.planning.options import Pins, Work
from ftplatform.planning.servable import VLLM_RANKS, Engine
from ftplatform.planning.setup import Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import FILL

Target = Literal["cost", "quality"]
STEP_TOKENS = 32768
"""Positions per optimizer step: between the 16k of small instruction sets and the 64k and more of pre-training mixes."""
LEAST_STEPS = 100
"""Fewer steps than this barely warm up; the batch is halved until they are reached, to four sequences."""
BITS_PER_WEIGHT = 2.0
"""What a LoRA weight can hold, about two bits (Schulman et al. 2025, LoRA Without Regret), against about one bit of news per trained
token: the rank grows with the data, and beyond the largest rank full weights learn more.
"""
LARGEST_RANK = 256
FULL = (Setup("full"), Setup("full", weights="bf16", optimizer="adamw_8bit"))
"""Full weights, best first: fp32 with AdamW; bf16 weights and gradients with 8-bit states, which lose small updates."""


@dataclass(frozen=True, slots=True)
class Request:
    shape: ModelShape
    tokens: float
    """Tokens of the training rows, once."""
    length: int
    """Tokens per packed sequence."""
    epochs: float | None = None
    """None takes three for less than 10 million tokens, two for less than 100 million, else one."""
    max_steps: int | None = None
    """Optimizer steps; wins over ``epochs``."""
    learning_rate: float | None = None
    """Peak; None takes what ``rates.learning_rate`` says."""
    positions: float | None = None
    """Positions of one sequence per unit over all steps, where they are counted already; None: from steps, or tokens and epochs."""
    batch: int | None = None
    """Packed sequences per optimizer step; None chooses."""
    setups: tuple[Setup, ...] = ()
    """What may be trained, best first; empty chooses. Several are tried in this order."""
    target: Target = "cost"
    budget: float | None = None
    """Most that the upper price may be, in the catalogue's currency."""
    deadline: float | None = None
    """Hours that the upper duration may be."""
    gpu: str | None = None
    among: tuple[str, ...] = ()
    """Entries to choose from without ``gpu``; empty: every GPU of the catalogue."""
    gpus: int | None = None
    most_nodes: int | None = None
    strategy: Strategy | None = None
    checkpointing: bool | None = None
    spot: bool | None = None
    """None takes spot for the target ``cost`` without a deadline."""
    engine: Engine = "vllm"
    labelled: float = 1.0
    """Share of positions that carry loss."""
    why_length: str = ""
    """Why sequences have this length, as a sentence; empty where it was asked for."""

    @property
    def all_epochs(self) -> float:
        return self.epochs or (3 if self.tokens < 1e7 else 2 if self.tokens < 1e8 else 1)

    @property
    def pins(self) -> Pins:
        spot = self.target == "cost" and self.deadline is None if self.spot is None else self.spot
        return Pins(
            among=(self.gpu,) if self.gpu else self.among,
            gpus=self.gpus,
            most_nodes=self.most_nodes,
            strategy=self.strategy,
            checkpointing=self.checkpointing,
            spot=spot,
        )

    @property
    def work(self) -> Work:
        batch = self.batch or 1
        if self.batch is None:
            while batch * 2 * self.length <= STEP_TOKENS and batch < 256:
                batch *= 2
            while batch > 4 and self.tokens * self.all_epochs / (batch * self.length) < LEAST_STEPS:
                batch //= 2
            # Every GPU takes the same number of sequences, at least one.
            batch = math.ceil(batch / (self.gpus or 1)) * (self.gpus or 1)
            if self.shape.parameters > 3e10 and self.gpus is None:
                # Models that may need four nodes get a batch that four nodes can divide.
                batch = max(batch, 32)
        positions = self.positions or self.tokens * self.all_epochs / FILL
        if self.max_steps and not self.positions:
            positions = float(self.max_steps * batch * self.length)
        return Work(self.shape, positions, self.length, batch, self.labelled)


def candidates(request: Request) -> tuple[tuple[Setup, ...], str]:
    """Setups worth having for this much data, best first, and the sentence that says so; those asked for where there are."""
    if request.setups:
        return request.setups, ""
    base = Setup(lora=LoraConfig())
    one = trained_parameters(base.with_rank(1), request.shape)
    needed = request.tokens / BITS_PER_WEIGHT / one
    rank = next((r for r in VLLM_RANKS if r >= 16 and r >= needed), LARGEST_RANK)
    rank = min(rank, LARGEST_RANK)
    lora = base.with_rank(rank)
    adapters = (lora, replace(lora, quantization="nf4"))
    said = (
        f"Rank {rank} holds about {BITS_PER_WEIGHT * rank * one / 1e6:.0f} million bits, and {request.tokens / 1e6:.1f} million tokens "
        "bring about one bit each"
    )
    if needed > LARGEST_RANK and request.target == "quality":
        return (*FULL, *adapters), f"{said}: more than an adapter can learn, so full weights come first."
    if request.target == "quality":
        return adapters, f"{said}: an adapter learns that as well as full weights do, and forgets less."
    return adapters, f"{said}: an adapter is enough, and full weights would cost several times its memory."
