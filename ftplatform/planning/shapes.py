"""A model's shape from its ``config.json``: every weight counted in closed form, without torch.

The counts are those of the Hugging Face implementation; ``tests/test_plan_shapes.py`` compares each family with the model
built on the meta device, weight by weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ftplatform.core.errors import PlanRefused


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix of one block, as PEFT sees it: ``name`` is the last part of the module's path."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed matrices of a mixture of experts, per block: parameters of three dimensions in transformers, and no linear layers.
    LoRA does not reach them, and bitsandbytes leaves them as they are.
    """

    count: int
    active: int
    intermediate: int
    blocks: int
    """Blocks that have them; the others have the dense matrices of ``linears``."""

    def parameters(self, hidden: int, experts: int) -> int:
        """Weights of ``experts`` experts of one block, without the router."""
        return experts * 3 * hidden * self.intermediate


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes are numbers of elements."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    max_length: int
    attention: tuple[Linear, ...]
    """Matrices around attention, per block."""
    mlp: tuple[Linear, ...]
    """Matrices of the dense MLP, per block."""
    norms: int
    """Weights of the norms of one block."""
    norm_calls: int
    """Norms over the hidden state in one block; each keeps a copy of its input for the backward pass."""
    outside: int
    """Weights that are neither in a block nor an embedding over the vocabulary: final norm, learned positions."""
    gated: bool
    """Whether the MLP multiplies two projections."""
    experts: Experts | None = None
    eager: bool = False
    """Whether attention can only be computed with its whole score matrix (capped scores: no fused kernel takes them)."""
    rescaled: bool = False
    """Whether logits are changed behind the output layer (capped, scaled): the loss then needs all of them at once."""
    left_out: str = ""
    """What of the checkpoint is not counted, as a sentence; empty where everything is."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelShape:
        """Read a Hugging Face ``config.json``.

        A checkpoint of several parts is sized by its ``text_config``; one that does not name its architecture by its ``model_type``.

        Raises:
            PlanRefused: an architecture whose parameters cannot be counted in closed form here, a size that is missing or is none,
                or weights that are quantized already.
        """
        # Families are made of shapes, and this is the one place that asks for them.
        from ftplatform.planning.families import shape_of

        return shape_of(config)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Linear layers of a dense block, in the order of the forward pass."""
        return (*self.attention, *self.mlp)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names LoRA can be put on: all linear layers of the blocks."""
        return tuple(dict.fromkeys(linear.name for linear in self.linears if self._blocks_with(linear)))

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def quantizable(self) -> int:
        """Weights of the blocks' linear layers: what bitsandbytes quantizes. Biases, norms, embeddings and experts stay."""
        return sum(linear.inputs * linear.outputs * self._blocks_with(linear) for linear in self.linears)

    @property
    def block_matrices(self) -> int:
        """Weights of all matrices in all blocks, biases and experts included: what most FLOPs go through."""
        dense = sum(linear.parameters * self._blocks_with(linear) for linear in self.linears)
        if self.experts is None:
            return dense
        router = self.experts.count * self.hidden
        return dense + self.experts.blocks * (router + self.experts.parameters(self.hidden, self.experts.count))

    @property
    def embeddings(self) -> int:
        """Weights over the vocabulary: one matrix when input and output are tied, else two."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Weights of the whole model; a payload-side test compares it with the live one."""
        return self.block_matrices + self.embeddings + self.layers * self.norms + self.outside

    @property
    def block(self) -> int:
        """Weights of the largest block: what a sharded strategy gathers at a time."""
        dense = sum(linear.parameters for linear in self.attention) + self.norms
        mlp = sum(linear.parameters for linear in self.mlp)
        if self.experts is not None:
            mlp = self.experts.count * self.hidden + self.experts.parameters(self.hidden, self.experts.count)
        return dense + mlp

    @property
    def active(self) -> int:
        """Weights that a token is multiplied with, the output layer included and the embedding table not."""
        total = self.block_matrices + self.vocabulary * self.hidden
        if self.experts is None:
            return total
        idle = self.experts.count - self.experts.active
        return total - self.experts.blocks * self.experts.parameters(self.hidden, idle)

    def selected(self, modules: Iterable[str], kind: str = "LoRA") -> list[tuple[Linear, int]]:
        """Linear layers named by ``modules`` with the number of blocks that have them; ``kind`` of adapter is for the message.

        Raises:
            PlanRefused: a module this architecture does not have.
        """
        wanted = tuple(modules)
        unknown = [module for module in wanted if module not in self.targets]
        if unknown:
            raise PlanRefused(
                f"{kind} target modules {unknown} are not in a {self.architecture}: accepted are {list(self.targets)}"
            )
        return [(linear, self._blocks_with(linear)) for linear in self.linears if linear.name in wanted]

    def _blocks_with(self, linear: Linear) -> int:
        routed = self.experts.blocks if self.experts is not None and linear in self.mlp else 0
        return self.layers - routed
