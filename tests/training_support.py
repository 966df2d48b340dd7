"""A base, shards and specs so small that a whole training takes a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.core.payload import StoreAddress, TrainSpec
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.store import ObjectStore, open_store

VOCABULARY, LENGTH = 64, 32


def store_in(folder: Path) -> tuple[StoreAddress, ObjectStore]:
    address = StoreAddress(url=(folder / "store").as_uri())
    return address, open_store(address)


def tiny_base(store: ObjectStore, folder: Path) -> str:
    """Tree digest of a two-layer Llama with 32 hidden units, and a stand-in for its tokenizer files."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    (folder / "base" / "chat_template.jinja").write_text("{{ messages }}")
    return store.put_tree(folder / "base")


def tiny_shard(store: ObjectStore, folder: Path, rows: int = 24, seed: int = 0) -> str:
    """Rows of two documents each; the second half of a document is labelled."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (rows, LENGTH), generator=draw)
    half = LENGTH // 2
    positions = torch.arange(half).repeat(2).expand(rows, LENGTH)
    labels = torch.where(positions >= half // 2, ids, -100)
    path = folder / f"shard-{seed}.safetensors"
    tensors = {"input_ids": ids, "labels": labels, "position_ids": positions}
    save_file({name: value.to(torch.int32).contiguous() for name, value in tensors.items()}, path)
    return store.put_file(path)


def tiny_spec(folder: Path, key: str = "a" * 64, *, kind: str = "lora", steps: int = 6, **training: Any) -> TrainSpec:
    folder.mkdir(parents=True, exist_ok=True)
    address, store = store_in(folder)
    config = {"learning_rate": 5e-3, "batch_size": 4, "max_length": LENGTH, "precision": "fp32", "dropout": 0.1}
    return TrainSpec(
        key=key,
        store=address,
        base_weights=tiny_base(store, folder),
        shards={"train": (tiny_shard(store, folder),), "validation": (tiny_shard(store, folder, 4, seed=1),)},
        max_length=LENGTH,
        method="sft",
        parameterisation=kind,  # type: ignore[arg-type]
        lora=LoraConfig(rank=4, alpha=8, dropout=0.1, target_modules=("q_proj", "v_proj", "down_proj")),
        training=TrainingConfig(**{**config, **training}),
        micro_batch=2,
        accumulation=2,
        steps=steps,
        threads=1,
    )
