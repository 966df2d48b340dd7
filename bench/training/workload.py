"""The workload of the comparison: a small Llama, packed chat rows, LoRA on all linear layers."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.core.payload import StoreAddress, TrainSpec
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.store import ObjectStore, open_store
from ftplatform.training.shards import IGNORED, Rows

LENGTH, VOCABULARY, MICRO, ACCUMULATE = 512, 4096, 4, 2
BATCH = MICRO * ACCUMULATE
LORA = LoraConfig(rank=8, alpha=16)
TRAINING = TrainingConfig(
    learning_rate=1e-3, batch_size=BATCH, max_length=LENGTH, precision="fp32", schedule="constant", warmup_ratio=0.0,
    checkpoint_every=100_000,
)  # fmt: skip
SAID = (
    "1.3 M-parameter Llama, vocabulary 4096, 8 packed rows of 512 tokens a step in micro-batches of 4, LoRA r=8 on all linear "
    "layers, one thread"
)


def packed_rows(count: int, length: int = LENGTH, vocabulary: int = VOCABULARY, seed: int = 1) -> Rows:
    """Rows filled with documents of 16 tokens and more, lengths log-normal with a median of 120; the last fifth to two fifths
    of each is learned, as the answer of a chat is.
    """
    draw, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    ids = torch.randint(2, vocabulary, (count, length), generator=draw)
    positions, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row in range(count):
        at = 0
        while at < length:
            size = min(length - at, max(16, int(chance.lognormvariate(4.8, 0.6))))
            size = size if length - at - size >= 16 else length - at
            answer = at + int(size * chance.uniform(0.6, 0.8))
            positions[row, at : at + size] = torch.arange(size)
            labels[row, answer : at + size] = ids[row, answer : at + size]
            at += size
    targets = labels.roll(-1, 1)
    targets[:, -1] = IGNORED
    return Rows(ids, targets, positions)


def put_shard(store: ObjectStore, folder: Path, rows: Rows) -> str:
    """Digest of ``rows`` as a shard of the store."""
    labels = rows.targets.roll(1, 1)
    labels[:, 0] = IGNORED
    tensors = {"input_ids": rows.input_ids, "labels": labels, "position_ids": rows.position_ids}
    path = folder / "shard.safetensors"
    save_file({name: value.to(torch.int32).contiguous() for name, value in tensors.items()}, path)
    return store.put_file(path)


def put_base(store: ObjectStore, folder: Path, hidden: int = 128, layers: int = 4) -> str:
    """Tree of a Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=LENGTH, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    (folder / "base" / "chat_template.jinja").write_text("{{ messages }}")
    return store.put_tree(folder / "base")


def put_job(folder: Path, rows: Rows, steps: int) -> tuple[TrainSpec, ObjectStore]:
    """A training of ``rows`` as the platform would start it, and the store in ``folder`` that holds all it needs."""
    address = StoreAddress(url=(folder / "store").as_uri())
    store = open_store(address)
    spec = TrainSpec(
        key="b" * 64, store=address, base_weights=put_base(store, folder),
        shards={"train": (put_shard(store, folder, rows),)}, max_length=LENGTH, method="sft", parameterisation="lora",
        lora=LORA, training=TRAINING, micro_batch=MICRO, accumulation=ACCUMULATE, steps=steps, threads=1,
    )  # fmt: skip
    return spec, store
