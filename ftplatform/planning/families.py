"""The families of models that can be sized: from their ``config.json`` to a shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ftplatform.core.errors import PlanRefused
from ftplatform.planning.shapes import Experts, Linear, ModelShape
from ftplatform.planning.sizes import Sizes


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """See ``ModelShape.from_config``."""
    inner, left_out = _text_part(config)
    name = _architecture(inner) if left_out else _architecture(config)
    for part in (config, inner):
        if part.get("quantization_config"):
            raise PlanRefused(
                f"the weights of this {name} are quantized already (its config.json has a quantization_config): accepted is the "
                "checkpoint as it was before; a recipe's training.quantization quantizes it on loading"
            )
    family = FAMILIES.get(name)
    if family is None:
        raise PlanRefused(
            f"the planner cannot size a {name}: known are {', '.join(FAMILIES)}; use a base model of one of these architectures"
        )
    return replace(family(Sizes(name, inner)), left_out=left_out)


def _text_part(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The language model's own values, and what is left out beside it."""
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config, ""
    # Whether the matrices over the vocabulary are one is said of the whole checkpoint, or of its text part.
    outer = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
    others = sorted(
        name.removesuffix("_config") for name in config if name.endswith("_config") and name != "text_config"
    )
    others = [
        name
        for name in others
        if isinstance(config[f"{name}_config"], dict) and name not in ("generation", "quantization")
    ]
    return (
        outer | inner,
        f"Only the text model of this {_architecture(config)} is counted: its {', '.join(others) or 'other'} weights are left out.",
    )


def _architecture(config: Mapping[str, Any]) -> str:
    """The first name of ``architectures``; without one that of the family that ``model_type`` names."""
    named, kind = config.get("architectures"), config.get("model_type")
    if isinstance(named, str):
        named = [named]
    first = named[0] if isinstance(named, list) and named else None
    if isinstance(first, str) and first:
        return first
    return (
        _MODEL_TYPES.get(kind, kind) if isinstance(kind, str) and kind else "model without architectures and model_type"
    )


def _gated_decoder(
    sizes: Sizes,
    *,
    tied: bool = False,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    vocabulary: int | None = None,
    max_length: int | None = None,
    qkv_bias: bool = False,
    head_norms: bool = False,
    whole_norms: bool = False,
    norm_calls: int = 2,
    fused: bool = False,
    eager: bool = False,
    rescaled: bool = False,
    experts: Callable[[Sizes], Experts] | None = None,
) -> ModelShape:
    """Llama and what followed it; the keywords are the family's defaults for what its ``config.json`` may leave out.

    ``head_norms``: queries and keys are normalized per head; ``whole_norms``: over all heads at once.
    """
    hidden, heads = sizes.whole("hidden_size"), sizes.whole("num_attention_heads", heads)
    groups = sizes.whole("num_key_value_heads", kv_heads or heads)
    dim = sizes.whole("head_dim", head_dim or hidden // heads or None)
    if heads % groups:
        raise PlanRefused(
            f"the config.json of this {sizes.architecture} has {heads} attention heads for {groups} of keys and values: accepted is a "
            "multiple"
        )
    intermediate, query, key_value = sizes.whole("intermediate_size"), heads * dim, groups * dim
    biased, mlp_bias = sizes.flag("attention_bias", False), sizes.flag("mlp_bias", False)
    if fused:
        attention: tuple[Linear, ...] = (
            Linear("qkv_proj", hidden, query + 2 * key_value),
            Linear("o_proj", query, hidden),
        )
        mlp: tuple[Linear, ...] = (
            Linear("gate_up_proj", hidden, 2 * intermediate),
            Linear("down_proj", intermediate, hidden),
        )
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
        architecture=sizes.architecture,
        hidden=hidden,
        layers=sizes.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=groups,
        head_dim=dim,
        intermediate=intermediate,
        vocabulary=sizes.whole("vocab_size", vocabulary),
        tied=sizes.flag("tie_word_embeddings", tied),
        max_length=sizes.whole("max_position_embeddings", max_length),
        attention=attention,
        mlp=mlp,
        norms=norm_calls * hidden + (2 * dim if head_norms else query + key_value if whole_norms else 0),
        norm_calls=norm_calls,
        outside=hidden,
        gated=True,
        experts=experts(sizes) if experts else None,
        eager=eager,
        rescaled=rescaled,
    )


def _gpt2(sizes: Sizes) -> ModelShape:
    hidden, heads, positions = sizes.whole("n_embd"), sizes.whole("n_head"), sizes.whole("n_positions")
    intermediate = sizes.whole("n_inner", 4 * hidden)
    if hidden % heads:
        raise PlanRefused(
            f"the config.json of this {sizes.architecture} has n_embd {hidden} for {heads} heads: accepted is a multiple"
        )
    return ModelShape(
        architecture=sizes.architecture,
        hidden=hidden,
        layers=sizes.whole("n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=intermediate,
        vocabulary=sizes.whole("vocab_size"),
        tied=sizes.flag("tie_word_embeddings", True),
        max_length=positions,
        attention=(Linear("c_attn", hidden, 3 * hidden, True), Linear("c_proj", hidden, hidden, True)),
        mlp=(Linear("c_fc", hidden, intermediate, True), Linear("c_proj", intermediate, hidden, True)),
        norms=4 * hidden,
        norm_calls=2,
        outside=2 * hidden + positions * hidden,
        gated=False,
    )


def _mixtral_experts(sizes: Sizes) -> Experts:
    return Experts(
        sizes.whole("num_local_experts"),
        sizes.whole("num_experts_per_tok"),
        sizes.whole("intermediate_size"),
        sizes.whole("num_hidden_layers"),
    )


def _qwen_experts(sizes: Sizes) -> Experts:
    dense, step = sizes.blocks("mlp_only_layers"), sizes.whole("decoder_sparse_step", 1)
    layers = range(sizes.whole("num_hidden_layers"))
    routed = sum(layer not in dense and (layer + 1) % step == 0 for layer in layers)
    return Experts(
        sizes.whole("num_experts"), sizes.whole("num_experts_per_tok"), sizes.whole("moe_intermediate_size"), routed
    )


def _gemma2(sizes: Sizes) -> ModelShape:
    capped = sizes.scaled("final_logit_softcapping", 30.0)
    return _gated_decoder(sizes, tied=True, head_dim=256, norm_calls=4, eager=True, rescaled=capped)


def _gemma3(sizes: Sizes) -> ModelShape:
    # The text parts of Gemma 3's larger checkpoints leave out what is as in the family's own defaults.
    return _gated_decoder(
        sizes, tied=True, heads=8, kv_heads=4, head_dim=256, vocabulary=262_208, max_length=131_072, head_norms=True,
        norm_calls=4, rescaled=sizes.scaled("final_logit_softcapping"),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[Sizes], ModelShape]] = {
    "LlamaForCausalLM": _gated_decoder,
    "MistralForCausalLM": lambda sizes: _gated_decoder(sizes, kv_heads=8),
    "MixtralForCausalLM": lambda sizes: _gated_decoder(sizes, kv_heads=8, experts=_mixtral_experts),
    "Qwen2ForCausalLM": lambda sizes: _gated_decoder(sizes, qkv_bias=True),
    "Qwen3ForCausalLM": lambda sizes: _gated_decoder(sizes, head_dim=128, head_norms=True),
    "Qwen3MoeForCausalLM": lambda sizes: _gated_decoder(sizes, head_norms=True, experts=_qwen_experts),
    "GemmaForCausalLM": lambda sizes: _gated_decoder(sizes, tied=True, head_dim=256),
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Phi3ForCausalLM": lambda sizes: _gated_decoder(sizes, fused=True),
    "Olmo2ForCausalLM": lambda sizes: _gated_decoder(sizes, whole_norms=True),
    "GraniteForCausalLM": lambda sizes: _gated_decoder(sizes, rescaled=sizes.scaled("logits_scaling")),
    "SmolLM3ForCausalLM": lambda sizes: _gated_decoder(sizes, tied=True),
    "GPT2LMHeadModel": _gpt2,
}
_MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
"""``model_type`` -> the causal model of the family."""
