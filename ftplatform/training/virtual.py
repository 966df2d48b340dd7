"""Virtual tokens (prefix and prompt tuning) in front of every document: in training, and as a key-value cache to start from.

PEFT puts them in front of a row; a packed row has several documents, each of which must see them. They stand once in front
of the row: no document sees another, all see them, and a document's positions go on from theirs, so that every document
has the loss it has alone. For answering, virtual tokens are the first entries of a key-value cache, whether they were
trained as such (prefix) or as embeddings (prompt); PEFT's own generation leaves positions out that padding on the left
needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModelForCausalLM
from safetensors.torch import load_file
from transformers import DynamicCache

from ftplatform.core.errors import InvalidConfig

PREFIX, PROMPT = "PREFIX_TUNING", "PROMPT_TUNING"
_OWN = ("labels", "inputs_embeds", "past_key_values")
"""Arguments that PEFT's own forward is right about."""


@dataclass(frozen=True, slots=True)
class VirtualTokens:
    """Keys and values of ``length`` positions; ``layers`` has a pair [heads, length, size] per block."""

    length: int
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def cache(self, config: Any, batch: int) -> DynamicCache:
        """A new cache that begins with them, for ``batch`` sequences."""
        cache = DynamicCache(config=config)
        self.fill(cache, batch)
        return cache

    def fill(self, cache: DynamicCache, batch: int = 1) -> None:
        """Put them into an empty cache."""
        for number, pair in enumerate(self.layers):
            cache.update(*(one.expand(batch, -1, -1, -1).contiguous() for one in pair), number)

    def mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """``attention_mask`` [B, L] with ones in front: [B, length + L]."""
        return torch.cat([attention_mask.new_ones(len(attention_mask), self.length), attention_mask], 1)


@torch.no_grad()
def from_embeddings(model: Any, embeddings: torch.Tensor) -> VirtualTokens:
    """Virtual tokens whose ``embeddings`` [n, H] a prompt tuning trained; ``model`` computes their keys and values."""
    config = model.config.get_text_config()
    cache = DynamicCache(config=config)
    embeddings = embeddings.to(model.device, model.get_input_embeddings().weight.dtype)
    model(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return VirtualTokens(len(embeddings), tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))


def from_prefix(model: Any, values: torch.Tensor, heads: int) -> VirtualTokens:
    """Virtual tokens of a prefix tuning: ``values`` [n, layers * 2 * heads * size], as PEFT flattens them."""
    length = len(values)
    layers = int(model.config.get_text_config().num_hidden_layers)
    each = values.to(model.device, model.get_input_embeddings().weight.dtype).reshape(length, layers * 2, heads, -1)
    each = each.permute(1, 2, 0, 3)
    return VirtualTokens(length, tuple((each[2 * n], each[2 * n + 1]) for n in range(layers)))


def read_virtual(model: Any, folder: Path) -> VirtualTokens:
    """The virtual tokens of a PEFT folder for ``model``, whose other adapters are switched as they were in training.

    Raises:
        InvalidConfig: the folder holds no virtual tokens, or those of a model of another shape.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    stored = load_file(folder / "adapter_model.safetensors")
    if set(stored) != {"prompt_embeddings"} or config["peft_type"] not in (PREFIX, PROMPT):
        raise InvalidConfig(
            f"adapter: found {config['peft_type']} with {sorted(stored)[:3]}; accepted is one tensor prompt_embeddings"
        )
    values, text = stored["prompt_embeddings"], model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    wanted = text.hidden_size if config["peft_type"] == PROMPT else text.num_hidden_layers * 2 * heads * size
    if values.shape != (config["num_virtual_tokens"], wanted):
        raise InvalidConfig(
            f"the adapter's virtual tokens do not fit the base model: found {list(values.shape)}, accepted are "
            f"[{config['num_virtual_tokens']}, {wanted}]"
        )
    return from_embeddings(model, values) if config["peft_type"] == PROMPT else from_prefix(model, values, heads)


def extended(mask: torch.Tensor, length: int, *, prompt: bool) -> torch.Tensor:
    """A mask [B, 1, L, L] of documents with ``length`` virtual tokens in front that all of them see: [B, 1, L, n + L], and
    with ``prompt`` [B, 1, n + L, n + L], where virtual tokens see those before them. Boolean, or 0 and a low number.
    """
    rows, columns = mask.shape[-2:]
    seen, unseen = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
    whole = torch.cat([mask.new_full((len(mask), 1, rows, length), seen), mask], 3)
    if not prompt:
        return whole
    top = mask.new_full((len(mask), 1, length, length + columns), unseen)
    causal = torch.ones((length, length), dtype=torch.bool, device=mask.device).tril()
    top[..., :length] = mask.new_full((), unseen).where(~causal, mask.new_full((), seen))
    return torch.cat([top, whole], 2)


class VirtualTokenModel(PeftModelForCausalLM):
    """PEFT's model of a prefix or a prompt, with a forward for packed rows and a generation that minds padding."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        **rest: Any,
    ) -> Any:
        """``attention_mask`` [B, L], [B, 1, L, L], one of the latter per kind of layer, or None for causal. Logits are
        [B, L, V] with a prefix and [B, n + L, V] with a prompt, whose own positions come first.
        """
        if input_ids is None or any(rest.get(name) is not None for name in _OWN):
            return super().forward(input_ids, attention_mask, position_ids=position_ids, **rest)
        config = self.active_peft_config
        length, prompt = config.num_virtual_tokens, config.peft_type == PROMPT
        batch, tokens = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(tokens, device=input_ids.device).expand(batch, tokens)
        position_ids = position_ids + length
        if isinstance(attention_mask, dict):
            attention_mask = {name: extended(one, length, prompt=prompt) for name, one in attention_mask.items()}
        elif attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = extended(attention_mask, length, prompt=prompt)
        elif attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(batch, length), attention_mask], 1)
        if not prompt:
            return self.base_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=self.get_prompt(batch),
                **rest,
            )
        rows = self.word_embeddings(input_ids)
        virtual = torch.arange(length, device=input_ids.device).expand(batch, length)
        return self.base_model(
            inputs_embeds=torch.cat([self.get_prompt(batch).to(rows.dtype), rows], 1),
            attention_mask=attention_mask,
            position_ids=torch.cat([virtual, position_ids], 1),
            **rest,
        )

    @torch.no_grad()
    def generate(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> torch.Tensor:
        """As ``generate`` of the model without virtual tokens: the prompts and their answers, virtual tokens left out."""
        return generate(self.base_model, self.virtual_tokens(), input_ids, attention_mask, **rest)

    @torch.no_grad()
    def virtual_tokens(self) -> VirtualTokens:
        """As they are now."""
        config = self.active_peft_config
        values = self.prompt_encoder[self.active_adapter].embedding.weight.detach()
        if config.peft_type != PROMPT:
            return from_prefix(self.base_model, values, config.num_attention_heads)
        made: VirtualTokens = from_embeddings(self.base_model, values)
        return made


def generate(
    model: Any, start: VirtualTokens | None, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any
) -> torch.Tensor:
    """``model.generate`` after ``start``; [B, L + answer]."""
    made: Callable[..., torch.Tensor] = model.generate
    if start is None:
        return made(input_ids=input_ids, attention_mask=attention_mask, **rest)
    # A mask longer than the ids tells the library that the cache holds what comes before them.
    return made(
        input_ids=input_ids,
        attention_mask=start.mask(attention_mask),
        past_key_values=start.cache(model.config, len(input_ids)),
        **rest,
    )
