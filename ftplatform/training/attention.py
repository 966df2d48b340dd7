"""Attention inside the documents of packed rows, and which implementation a training takes.

A mask that keeps packed documents apart is L x L for every row, and most of it is false: attention over it costs as if the
row were one document. Here each document is a causal attention of its own. The loss is the same
(``tests/test_training_loss_documents.py``); with four to five documents a row a step of a small model took a quarter less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from ftplatform.core.errors import InvalidConfig
from ftplatform.training.masks import packed_mask
from ftplatform.training.shards import Documents, documents_of

BY_DOCUMENT = "by_document"
"""Name of this module's attention among transformers' own."""


def document_inputs(model: Any, position_ids: torch.Tensor, documents: Documents | None = None) -> dict[str, Any]:
    """What ``model`` takes besides ids and positions so that documents of packed rows [B, L] do not see each other;
    ``documents`` are those of ``position_ids``, where they are known.
    """
    peft = getattr(model, "active_peft_config", None)
    name = str(model.config._attn_implementation)
    if (peft is not None and peft.is_prompt_learning) or not (name == BY_DOCUMENT or "flash" in name):
        # L * L bytes a row. Virtual tokens are no document's own: every document sees them.
        return {"attention_mask": packed_mask(model, position_ids)}
    documents = documents or documents_of(position_ids)
    if name == BY_DOCUMENT:
        # A 4-D mask is handed through as it is. This one is no mask: it shows an attention that its documents were lost.
        return {"attention_mask": position_ids.new_ones((1, 1, 1, 1), dtype=torch.bool), "documents": documents}
    # FlashAttention finds documents by positions in a batch of one row only, so it is told.
    return {
        "attention_mask": None,
        "cu_seq_lens_q": documents.borders,
        "cu_seq_lens_k": documents.borders,
        "max_length_q": documents.longest,
        "max_length_k": documents.longest,
    }


def by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    documents: Documents | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """An attention for transformers: [B, heads, L, D] in, [B, L, heads, D] out. Without ``documents`` it is SDPA.

    Raises:
        RuntimeError: the model did not hand the documents on.
    """
    if documents is None:
        if attention_mask is not None and attention_mask.shape[-1] == 1 < key.shape[2]:
            raise RuntimeError(f"attention by documents did not engage: {type(module).__name__} was not told of them")
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **rest
        )
        return found
    rows, _, length, _ = query.shape
    q, k, v = (_end_to_end(tensor) for tensor in (query, key, value))
    # Flash attention's own limits, which SDPA would work around.
    fits = q.shape[-1] <= 256 and q.shape[-1] % 8 == 0 and q.shape[-1] == v.shape[-1]
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and not dropout and fits:
        out = _varlen(q, k, v, documents, scaling, sliding_window)
    else:
        parts = zip(*(tensor.split(documents.lengths) for tensor in (q, k, v)), strict=True)
        out = torch.cat([_causal(one, of, to, dropout, scaling, sliding_window) for one, of, to in parts])
    return out.view(rows, length, *out.shape[1:]), None


def _end_to_end(tensor: torch.Tensor) -> torch.Tensor:
    """[B, heads, L, D] -> [B * L, heads, D], in the precision that matrix products have here."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        tensor = tensor.to(torch.get_autocast_dtype(kind))
    return tensor.transpose(1, 2).flatten(0, 1)


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One document: [n, heads, D] in and out."""
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    mask = None
    if window and window < len(query):
        mask = torch.ones(len(query), len(query), dtype=torch.bool, device=query.device).tril().triu(1 - window)
    shared = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(
        q, k, v, mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=shared
    )
    return out[0].transpose(0, 1)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All documents in one kernel of torch's own FlashAttention. Not run: it needs CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(
        query.contiguous(), key.contiguous(), value.contiguous(), documents.borders, documents.borders,
        documents.longest, documents.longest, scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
        window_size=(window - 1, 0) if window else (-1, 0),
    )  # fmt: skip


def choose_attention(model: Any, precision: str) -> str:
    """FlashAttention 3 on Hopper and 2 from Ampere on, where installed and ``precision`` is bf16; otherwise by documents with
    SDPA's kernels, or what the model was loaded with where it cannot follow that.
    """
    loaded = str(model.config._attn_implementation)
    if loaded == "eager":
        return loaded
    if torch.cuda.is_available() and precision == "bf16" and model._supports_flash_attn:
        generation = torch.cuda.get_device_capability()[0]
        if generation == 9 and is_flash_attn_3_available():
            return "flash_attention_3"
        if generation >= 8 and is_flash_attn_2_available():
            return "flash_attention_2"
    # Attention in chunks of positions is told to SDPA by its mask alone.
    chunked = getattr(model.config.get_text_config(), "attention_chunk_size", None)
    able = model._supports_sdpa and model._supports_attention_backend and not chunked
    return BY_DOCUMENT if able else loaded


def engage_attention(model: Any, precision: str) -> str:
    """Give ``model`` (before PEFT wraps it) the attention of ``choose_attention``, and return its name.

    Raises:
        InvalidConfig: it did not engage.
    """
    wanted = choose_attention(model, precision)
    model.set_attn_implementation(wanted)
    if model.config.get_text_config()._attn_implementation != wanted:
        raise InvalidConfig(
            f"attention {wanted!r} did not engage on {type(model).__name__}: it has "
            f"{model.config.get_text_config()._attn_implementation!r}"
        )
    return wanted


AttentionInterface.register(BY_DOCUMENT, by_document)
AttentionMaskInterface.register(BY_DOCUMENT, sdpa_mask)
