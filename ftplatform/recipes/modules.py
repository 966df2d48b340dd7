"""Names of the linear layers that adapters stand on, over all architectures whose shapes the planner knows."""

from __future__ import annotations

import difflib

from ftplatform.core.recipe import ATTENTION_AND_MLP, LoraConfig

MODULES = (*ATTENTION_AND_MLP, "qkv_proj", "gate_up_proj", "c_attn", "c_proj", "c_fc")
"""Llama and its like; Phi 3, whose layers are fused; GPT-2."""
OUTSIDE = ("lm_head", "embed_tokens", "embed_out", "embed_in", "wte", "wpe", "output_layer")
"""Embeddings and output layers: an adapter there cannot be switched in a serving engine."""


def module_problems(lora: LoraConfig) -> dict[str, str]:
    """Field -> why ``target_modules`` cannot be trained; empty when each is a layer of some architecture."""
    outside = [name for name in lora.target_modules if name in OUTSIDE]
    unknown = [name for name in lora.target_modules if name not in MODULES and name not in OUTSIDE]
    said = []
    if outside:
        said.append(
            f"{', '.join(outside)}: an adapter on embeddings or the output layer cannot be served; name layers of the blocks"
        )
    if unknown:
        near = [one for name in unknown for one in difflib.get_close_matches(name, MODULES, n=1)]
        said.append(
            f"{', '.join(unknown)}: no known architecture has such a layer"
            + (f", did you mean {', '.join(dict.fromkeys(near))}?" if near else f": accepted are {', '.join(MODULES)}")
        )
    if not lora.target_modules:
        said.append(f"none is named, so nothing would be trained: accepted are {', '.join(MODULES)}")
    return {"lora.target_modules": "; ".join(said)} if said else {}
