"""A model's shape from its ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftplatform.core.errors import PlanRefused

_BIASED_ATTENTION = {"Qwen2ForCausalLM"}
KNOWN_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")


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

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelShape:
        """Read a Hugging Face ``config.json``.

        Raises:
            PlanRefused: an architecture whose parameters cannot be counted in closed form here.
        """
        architecture = (config.get("architectures") or ["unknown"])[0]
        if architecture not in KNOWN_ARCHITECTURES:
            raise PlanRefused(
                f"the planner cannot size a {architecture}: known are {', '.join(KNOWN_ARCHITECTURES)}; "
                "use a base model of one of these architectures"
            )
        heads = config["num_attention_heads"]
        return cls(
            architecture=architecture,
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            max_length=config["max_position_embeddings"],
        )

    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every linear layer of one block, by module name."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key_value),
            "v_proj": (self.hidden, key_value),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def parameters(self) -> int:
        """Weights of the whole model; a payload-side test compares it with the live one."""
        block = sum(inputs * outputs for inputs, outputs in self.projections().values()) + 2 * self.hidden
        if self.architecture in _BIASED_ATTENTION:
            block += (self.heads + 2 * self.kv_heads) * self.head_dim
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * block + self.hidden

    def lora_parameters(self, rank: int, modules: tuple[str, ...]) -> int:
        """Weights of rank-``rank`` adapters on ``modules`` of every block: rank x (inputs + outputs) each.

        Raises:
            PlanRefused: a module this architecture does not have.
        """
        known = self.projections()
        unknown = [module for module in modules if module not in known]
        if unknown:
            raise PlanRefused(
                f"LoRA target modules {unknown} are not in a {self.architecture}: accepted are {list(known)}"
            )
        return self.layers * rank * sum(sum(known[module]) for module in modules)
