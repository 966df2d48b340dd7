"""Attention masks of packed rows, in the form that a model's attention takes them."""

from __future__ import annotations

from typing import Any

import torch

from ftplatform.training.shards import document_mask


def packed_mask(model: Any, position_ids: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """Who sees whom in rows of documents, [B, 1, L, L] from [B, L]; one per kind of layer where only some have a window.

    Boolean for SDPA. Eager attention adds its mask to the scores, and a boolean one would hide nothing: there it is 0 and the
    lowest number.
    """
    config = model.config.get_text_config()
    mask = document_mask(position_ids)
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    length = position_ids.shape[1]
    if not window or window >= length or kinds == {"full_attention"}:
        return _form(mask, model)
    places = torch.arange(length, device=mask.device)
    near = mask & (places[:, None] - places[None] < window)
    if "full_attention" in kinds:
        return {"full_attention": _form(mask, model), "sliding_attention": _form(near, model)}
    return _form(near, model)


def _form(mask: torch.Tensor, model: Any) -> torch.Tensor:
    if model.config._attn_implementation != "eager":
        return mask
    kind = model.get_input_embeddings().weight.dtype
    return torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill(~mask, torch.finfo(kind).min)
