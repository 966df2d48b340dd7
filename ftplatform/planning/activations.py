"""What the forward pass keeps for the backward pass, counted tensor by tensor for Hugging Face's decoder blocks.

The terms are those autograd saves, which ``tests/test_plan_activations.py`` counts on a live block. The familiar 34 bytes per
token and hidden unit (Korthikanti et al. 2022, eq. 2) is for GPT's MLP in half precision: a gated block under autocast, whose
norms work in fp32, keeps about 55.
"""

from __future__ import annotations

from ftplatform.core.methods import find_method
from ftplatform.planning.setup import Setup, targeted
from ftplatform.planning.shapes import ModelShape
from ftplatform.recipes.rules import VIRTUAL

LOGIT_CHUNK = 1024
"""Labelled positions whose logits exist at a time (``CHUNK`` of ``training/loss.py``, which cannot be imported without torch)."""
SMALL_VOCABULARY = 8192
"""Up to it all logits are taken at once (the same)."""


def takes_mask(shape: ModelShape, setup: Setup) -> bool:
    """Whether packed rows are kept apart by a mask of length x length: where scores are capped, and where every document sees
    virtual tokens. All other trainings attend document by document (``training/attention.py``).
    """
    return shape.eager or setup.parameterisation in VIRTUAL


def layer_bytes(shape: ModelShape, setup: Setup, length: int, *, masked: bool) -> float:
    """Bytes per token that one block keeps without checkpointing.

    ``masked``: attention takes the borders of packed rows from a mask (SDPA), so that grouped keys and values are repeated per
    head and the mask is kept; attention by documents and flash attention need neither.
    """
    h, q, kv, i = shape.hidden, shape.query, shape.key_value, shape.intermediate
    value = 4 if setup.precision == "fp32" else 2
    # Autocast casts the input of each matrix by itself; where nothing is cast, matrices share their input.
    casts = setup.precision == "bf16" and not (setup.full and setup.weights == "bf16")
    # These scale what they normalized before they cast it back, so that it is kept in fp32.
    late_cast = shape.architecture.startswith(("Gemma", "Olmo2"))
    if shape.gated:
        norm = 4 * h
        if setup.full:
            norm += 4 * h if setup.weights == "fp32" or late_cast else 2 * h
        head_norm = 0
        if shape.norms > shape.norm_calls * h:
            normalized = (4 if late_cast else value) if setup.full else 0
            head_norm = (q + kv) * (4 + normalized)
    else:
        # LayerNorm keeps its input alone: fp32 where the hidden state is.
        norm, head_norm = (4 if setup.weights == "fp32" or setup.precision == "fp32" else 2) * h, 0
    kept: float = shape.norm_calls * norm + head_norm

    if setup.full:
        readers = len(shape.attention) - 1 + len(shape.mlp) - 1 if casts else 2
        kept += readers * value * h
    else:
        kept += _adapter_inputs(shape, setup, value, casts)
    if shape.attention[0].name == "qkv_proj":
        # The value is a view that keeps the whole fused projection, unless it is repeated per head.
        kept += value * ((0 if masked else q + kv) + (h if setup.full or not casts else 0))
    kept += value * (2 * q + (2 * q if masked or shape.eager else 2 * kv)) + 4 * shape.heads
    if shape.eager:
        # Scores after the cap, after softmax in fp32, and cast back: length x heads numbers per token.
        kept += shape.heads * length * (8 if value == 2 else 2 * value)
    elif masked:
        kept += value * length
    inner = i
    if shape.experts is not None:
        inner = shape.experts.active * shape.experts.intermediate
    return kept + (4 if shape.gated else 3) * value * inner


def _adapter_inputs(shape: ModelShape, setup: Setup, value: int, casts: bool) -> float:
    chosen = {linear.name for linear, _ in targeted(setup, shape)}
    rank = setup.rank if setup.parameterisation == "lora" else 0
    outputs = rank * sum(linear.name in chosen for linear in shape.linears)
    if casts:
        # The input of the MLP's last matrix is the product it is computed from, counted with the MLP.
        inputs = sum(linear.inputs for linear in shape.linears if linear.name in chosen and linear is not shape.mlp[-1])
    else:
        groups = (shape.attention[:-1], shape.mlp[:-1])
        inputs = shape.hidden * sum(any(linear.name in chosen for linear in group) for group in groups)
    return value * (inputs + outputs)


def activation_bytes(
    shape: ModelShape, setup: Setup, tokens: int, length: int, *, checkpointing: bool, masked: bool
) -> float:
    """Bytes kept for ``tokens`` tokens (micro-batch x length) at the end of the forward pass.

    With checkpointing (Chen et al. 2016) each block keeps its input, and one block at a time is computed again.
    """
    layer = layer_bytes(shape, setup, length, masked=masked)
    stream = 4 if setup.precision == "fp32" or (setup.full and setup.weights == "fp32") else 2
    ends = (4 + 4 + 2) * shape.hidden
    if checkpointing:
        return tokens * (shape.layers * stream * shape.hidden + layer + ends)
    return tokens * (shape.layers * layer + ends)


def logits_bytes(shape: ModelShape, setup: Setup, labelled: int, *, whole_layer: bool = True) -> float:
    """Bytes of the output layer's logits and what the loss makes of them, for ``labelled`` positions of a micro-batch.

    Logits are taken at labelled positions only. Per logit: fp32 log-probabilities and their gradient, and under bf16 the
    half-precision logits beside them; of ``LOGIT_CHUNK`` positions at a time, unless the vocabulary is small. Where the output
    layer is not whole on every GPU (``whole_layer``), or logits are changed behind it, those of all positions exist in the type
    of the computation, and in the backward pass their gradient twice: in parts, and put together. A distillation has the
    teacher's beside the student's; a reward model has a score and no logits.
    """
    if not find_method(setup.method).answers:
        return 0.0
    value = 4 if setup.precision == "fp32" else 2
    in_chunks = shape.vocabulary > SMALL_VOCABULARY
    per_position = (min(labelled, LOGIT_CHUNK) if in_chunks else labelled) * (8 if value == 4 else 10)
    if in_chunks and (shape.rescaled or not whole_layer):
        per_position += labelled * value * (4 if shape.rescaled else 3)
    return per_position * shape.vocabulary * (2 if setup.method == "distillation" else 1)
