"""A model's shape from its ``config.json``: every weight counted in closed form, without torch.

The counts are those of the Hugging Face implementation; ``tests/test_plan_shapes.py`` compares each family with the model
built on the meta device, weight by weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """The routed matrices of a mixture of experts, per block; LoRA does not reach them."""

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

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelShape:
        """Read a Hugging Face ``config.json``.

        Raises:
            PlanRefused: an architecture whose parameters cannot be counted in closed form here, or a config without a size.
        """
        architecture = (config.get("architectures") or ["unknown"])[0]
        family = FAMILIES.get(architecture)
        if family is None:
            raise PlanRefused(
                f"the planner cannot size a {architecture}: known are {', '.join(FAMILIES)}; "
                "use a base model of one of these architectures"
            )
        try:
            return family(architecture, config)
        except KeyError as error:
            raise PlanRefused(
                f"the config.json of this {architecture} has no {error}: the model cannot be sized"
            ) from None

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
    def block_matrices(self) -> int:
        """Weights of all matrices in all blocks, biases included: what is quantized, and what most FLOPs go through."""
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

    def selected(self, modules: Iterable[str]) -> list[tuple[Linear, int]]:
        """Linear layers named by ``modules`` with the number of blocks that have them.

        Raises:
            PlanRefused: a module this architecture does not have.
        """
        wanted = tuple(modules)
        unknown = [module for module in wanted if module not in self.targets]
        if unknown:
            raise PlanRefused(
                f"LoRA target modules {unknown} are not in a {self.architecture}: accepted are {list(self.targets)}"
            )
        return [(linear, self._blocks_with(linear)) for linear in self.linears if linear.name in wanted]

    def _blocks_with(self, linear: Linear) -> int:
        routed = self.experts.blocks if self.experts is not None and linear in self.mlp else 0
        return self.layers - routed


def _gated_decoder(
    architecture: str,
    config: dict[str, Any],
    *,
    tied: bool = False,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    qkv_bias: bool = False,
    head_norms: bool = False,
    norm_calls: int = 2,
    fused: bool = False,
    eager: bool = False,
    experts: Callable[[dict[str, Any]], Experts] | None = None,
) -> ModelShape:
    """Llama and what followed it; the keywords are the family's defaults for what its ``config.json`` may leave out."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or head_dim or hidden // heads
    groups = config.get("num_key_value_heads") or kv_heads or heads
    intermediate, query, key_value = config["intermediate_size"], heads * dim, groups * dim
    biased, mlp_bias = bool(config.get("attention_bias", False)), bool(config.get("mlp_bias", False))
    if fused:
        attention: tuple[Linear, ...] = (
            Linear("qkv_proj", hidden, query + 2 * key_value),
            Linear("o_proj", query, hidden),
        )
        mlp: tuple[Linear, ...] = (Linear("gate_up_proj", hidden, 2 * intermediate),)
        mlp += (Linear("down_proj", intermediate, hidden),)
    else:
        attention = (
            Linear("q_proj", hidden, query, biased or qkv_bias),
            Linear("k_proj", hidden, key_value, biased or qkv_bias),
            Linear("v_proj", hidden, key_value, biased or qkv_bias),
            Linear("o_proj", query, hidden, biased),
        )
        mlp = (
            Linear("gate_proj", hidden, intermediate, mlp_bias),
            Linear("up_proj", hidden, intermediate, mlp_bias),
            Linear("down_proj", intermediate, hidden, mlp_bias),
        )
    return ModelShape(
        architecture=architecture,
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=groups,
        head_dim=dim,
        intermediate=intermediate,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", tied)),
        max_length=config["max_position_embeddings"],
        attention=attention,
        mlp=mlp,
        norms=norm_calls * hidden + (2 * dim if head_norms else 0),
        norm_calls=norm_calls,
        outside=hidden,
        gated=True,
        experts=experts(config) if experts else None,
        eager=eager,
    )


def _gpt2(architecture: str, config: dict[str, Any]) -> ModelShape:
    hidden, layers = config["n_embd"], config["n_layer"]
    intermediate = config.get("n_inner") or 4 * hidden
    positions = config["n_positions"]
    return ModelShape(
        architecture=architecture,
        hidden=hidden,
        layers=layers,
        heads=config["n_head"],
        kv_heads=config["n_head"],
        head_dim=hidden // config["n_head"],
        intermediate=intermediate,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", True)),
        max_length=positions,
        attention=(Linear("c_attn", hidden, 3 * hidden, True), Linear("c_proj", hidden, hidden, True)),
        mlp=(Linear("c_fc", hidden, intermediate, True), Linear("c_proj", intermediate, hidden, True)),
        norms=4 * hidden,
        norm_calls=2,
        outside=2 * hidden + positions * hidden,
        gated=False,
    )


def _mixtral_experts(config: dict[str, Any]) -> Experts:
    return Experts(
        config["num_local_experts"],
        config["num_experts_per_tok"],
        config["intermediate_size"],
        config["num_hidden_layers"],
    )


def _qwen_experts(config: dict[str, Any]) -> Experts:
    dense, step = set(config.get("mlp_only_layers") or ()), config.get("decoder_sparse_step", 1)
    layers = range(config["num_hidden_layers"])
    routed = sum(layer not in dense and (layer + 1) % step == 0 for layer in layers)
    return Experts(config["num_experts"], config["num_experts_per_tok"], config["moe_intermediate_size"], routed)


FAMILIES: dict[str, Callable[[str, dict[str, Any]], ModelShape]] = {
    "LlamaForCausalLM": _gated_decoder,
    "MistralForCausalLM": lambda name, c: _gated_decoder(name, c, kv_heads=8),
    "MixtralForCausalLM": lambda name, c: _gated_decoder(name, c, kv_heads=8, experts=_mixtral_experts),
    "Qwen2ForCausalLM": lambda name, c: _gated_decoder(name, c, qkv_bias=True),
    "Qwen3ForCausalLM": lambda name, c: _gated_decoder(name, c, head_dim=128, head_norms=True),
    "Qwen3MoeForCausalLM": lambda name, c: _gated_decoder(name, c, head_norms=True, experts=_qwen_experts),
    "GemmaForCausalLM": lambda name, c: _gated_decoder(name, c, tied=True, head_dim=256),
    "Gemma2ForCausalLM": lambda name, c: _gated_decoder(name, c, tied=True, head_dim=256, norm_calls=4, eager=True),
    "Gemma3ForCausalLM": lambda name, c: _gated_decoder(
        name, c, tied=True, head_dim=256, head_norms=True, norm_calls=4
    ),
    "Phi3ForCausalLM": lambda name, c: _gated_decoder(name, c, fused=True),
    "GPT2LMHeadModel": _gpt2,
}
