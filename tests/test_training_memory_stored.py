"""Weights stay in the type of their file until they are computed with: the same figures with a fraction of the memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from distributed_support import Ran, assert_same_training, divided, in_processes, without_dropout
from memory_support import BLOCKS, OwnMemory, bf16_base, in_fresh_processes
from methods_support import flat, method_spec, pairs
from safetensors.torch import load_file, save_file
from training_support import store_in
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedModel

from ftplatform.core.payload import TrainSpec
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.adapters import add_adapter
from ftplatform.training.distributed import fsdp, whole, zero
from ftplatform.training.fingerprint import fingerprint
from ftplatform.training.job import train
from ftplatform.training.methods.reward import ScoreAtEnd, load_reward_model
from ftplatform.training.model import load_base
from ftplatform.training.stored import WIDENS, blocks, compute_in_fp32, stays_stored

PROMPT = [3, 4, 5, 6, 7]


def small(folder: Path, model: PreTrainedModel | None = None) -> Path:
    """A base in bf16, and the same numbers in an fp32 file beside it."""
    if model is None:
        bf16_base(folder / "bf16", blocks=2)
    else:
        model.to(torch.bfloat16).save_pretrained(folder / "bf16")
    wide = load_base(folder / "bf16")
    wide.save_pretrained(folder / "fp32")
    return folder


@pytest.mark.parametrize(
    ("kind", "lora"),
    [("lora", {}), ("lora", {"use_dora": True}), ("ia3", {}), ("prefix", {}), ("prompt", {}), ("full", {})],
)
def test_the_proof_has_the_figures_of_weights_loaded_in_fp32(tmp_path: Path, kind: str, lora: dict[str, bool]) -> None:
    small(tmp_path)
    weights = tmp_path / "weights"
    if kind == "full":
        weights = tmp_path / "bf16"
    else:
        training = TrainingConfig(learning_rate=1.0, virtual_tokens=3)
        config = LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "down_proj"), **lora)
        model = add_adapter(load_base(tmp_path / "fp32"), kind, config, training)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(weights, save_embedding_layers=False)
    base = tmp_path / "bf16"
    found = fingerprint(base, weights, kind, PROMPT)
    wanted = fingerprint(tmp_path / "fp32", tmp_path / "fp32" if kind == "full" else weights, kind, PROMPT)
    assert found["token_ids"] == wanted["token_ids"]
    assert found["logprobs"] == pytest.approx(wanted["logprobs"], abs=1e-6)


def test_numbers_that_a_family_computes_are_not_rounded_with_the_weights(tmp_path: Path) -> None:
    """Gemma scales its embeddings by the root of their size, a buffer that a model loaded in bf16 has in bf16."""
    torch.manual_seed(1)
    config = GemmaConfig(
        vocab_size=64, hidden_size=40, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    small(tmp_path, GemmaForCausalLM(config))
    model = load_base(tmp_path / "bf16", stored=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    wanted = load_base(tmp_path / "fp32")
    for (name, buffer), (_, other) in zip(model.named_buffers(), wanted.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        found = compute_in_fp32(model).eval()(input_ids=ids).logits
        assert torch.equal(found, wanted.eval()(input_ids=ids).logits)
    assert all(p.dtype == torch.bfloat16 for block in blocks(model) for p in block.parameters())


def test_a_block_gives_its_memory_back_when_it_fails(tmp_path: Path) -> None:
    small(tmp_path)
    model = compute_in_fp32(load_base(tmp_path / "bf16", stored=True))
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the attention says of such a mask
        model(input_ids=torch.tensor([PROMPT]), attention_mask=torch.ones(1, 1, 3, 3))
    assert all(p.dtype == torch.bfloat16 for block in blocks(model) for p in block.parameters())


def test_a_reward_model_scores_the_same_on_weights_as_stored(tmp_path: Path) -> None:
    small(tmp_path)
    torch.manual_seed(2)
    load_reward_model(tmp_path / "fp32", tmp_path / "fp32", "full").save_pretrained(tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    save_file({n: v.bfloat16() for n, v in tensors.items()}, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    scores = []
    for stored in (False, True):
        model = load_reward_model(tmp_path / "bf16", tmp_path / "whole", "full", stored=stored)
        with torch.inference_mode(), ScoreAtEnd(model) as head:
            scores.append(float(head.score(model, torch.tensor([PROMPT]), torch.tensor([len(PROMPT)]))))
    assert scores[0] == scores[1]


def proof_memory(base: str) -> None:
    with OwnMemory() as memory:
        fingerprint(Path(base), Path(base), "full", PROMPT)
    print(json.dumps(memory.peak))


def test_the_proof_takes_a_block_and_the_embeddings_and_not_the_model(tmp_path: Path) -> None:
    [peak] = in_fresh_processes("test_training_memory_stored", "proof_memory", str(bf16_base(tmp_path / "base")))
    print(f"peak {peak:.0f} MB", file=sys.stderr)
    assert peak < 60, "all weights in fp32 are 120 MB"


def divided_memory(base: str, checkpoint: str, rendezvous: str) -> None:
    """Peaks of loading and dividing, and of reading a checkpoint; what is left in the end; whether every bit is right."""
    torch.set_num_threads(1)
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    with OwnMemory() as loading:
        model = load_base(Path(base), stored=True)
        setattr(model, WIDENS, True)
        fsdp.shard(model, bf16=False)
    same = all(
        torch.equal(p.full_tensor(), q)
        for p, q in zip(model.parameters(), load_base(Path(base)).parameters(), strict=True)
    )
    with OwnMemory() as reading:
        read = whole.read_weights(model, Path(checkpoint))
    stored = load_file(Path(checkpoint) / "model.safetensors")
    same = same and all(torch.equal(p.full_tensor(), stored[name]) for name, p in model.named_parameters())
    kinds = sorted({str(p.dtype) for p in model.parameters()})
    torch.distributed.destroy_process_group()
    print(json.dumps([loading.peak, reading.peak, read, same, kinds]))


def test_a_process_loads_its_share_and_a_block_and_reads_a_checkpoint_weight_by_weight(tmp_path: Path) -> None:
    base = bf16_base(tmp_path / "base")
    other = load_base(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.7)
    other.save_pretrained(tmp_path / "checkpoint")
    arguments = (str(base), str(tmp_path / "checkpoint"), str(tmp_path / "rendezvous"))
    for loading, reading, read, same, kinds in in_fresh_processes(
        "test_training_memory_stored", "divided_memory", *arguments, processes=2
    ):
        print(f"loading {loading:.0f} MB, reading {reading:.0f} MB", file=sys.stderr)
        assert (read, same, kinds) == (True, True, ["torch.float32"])
        assert loading < 60 + 120 / BLOCKS + 20 + 15, (
            "half of the weights, a block, the embeddings; all of them are 120 MB"
        )
        assert reading < 40, "a weight at a time; all of them are 120 MB"


def partitioned_memory(base: str, rendezvous: str) -> None:
    """Peak of loading and cutting for ZeRO-3 in bf16, and whether every bit is that of weights loaded in fp32."""
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    zero.open_deepspeed()
    config = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}, "train_micro_batch_size_per_gpu": 1}
    with OwnMemory() as memory:
        model = load_base(Path(base), stored=True)
        zero.partition(model, config)
    other = load_base(Path(base))
    zero.partition(other, config)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    same = all(one.dtype == two.dtype and torch.equal(zero.whole(one), zero.whole(two)) for one, two in pairs)
    torch.distributed.destroy_process_group()
    print(json.dumps([memory.peak, same]))


def test_zero3_in_bf16_takes_the_weights_as_stored(tmp_path: Path) -> None:
    arguments = (str(bf16_base(tmp_path / "base")), str(tmp_path / "rendezvous"))
    found = in_fresh_processes("test_training_memory_stored", "partitioned_memory", *arguments, processes=2)
    print(f"peaks {found} MB", file=sys.stderr)
    assert all(same for _, same in found)
    # DeepSpeed sends rank 0's weights into the others', which lie on their GPUs by then; without GPUs they are the mapped
    # pages, which become memory of a process's own when they are written to.
    assert found[0][0] < 60, "half of the weights in bf16 are 30 MB, all of them in fp32 are 120"


def test_only_strategies_that_divide_leave_full_weights_as_stored(tmp_path: Path) -> None:
    spec = without_dropout(tmp_path, "full")
    assert not stays_stored(spec)
    assert stays_stored(divided(spec, "fsdp2"))
    for strategy, expected in (("zero3", True), ("offload", True), ("zero2", False), ("ddp", False)):
        bf16 = spec.training.model_copy(update={"precision": "bf16"})
        changed = divided(spec.model_copy(update={"training": bf16}), strategy)  # type: ignore[arg-type]
        assert stays_stored(changed) == expected, strategy
    assert not stays_stored(divided(spec, "zero3")), "in fp32 it cuts what it is given"
    assert not stays_stored(divided(spec, "fsdp2").model_copy(update={"parameterisation": "lora"}))


def in_bf16(folder: Path, spec: TrainSpec) -> TrainSpec:
    """The same training from a base whose file is bf16."""
    path = folder / "base" / "model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    return spec.model_copy(update={"base_weights": store_in(folder)[1].put_tree(folder / "base")})


def alone(folder: Path, spec: TrainSpec) -> Ran:
    (folder / "alone").mkdir()
    return Ran(spec, train(spec, PayloadIO(folder / "alone"), store_in(folder)[1]), [])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["sft", "reward"])
def test_a_base_in_bf16_trains_divided_what_it_trains_in_one_process(tmp_path: Path, method: str) -> None:
    if method == "sft":
        spec = without_dropout(tmp_path, "full")
    else:
        splits = {"train": flat(pairs(8, 0)), "validation": flat(pairs(4, 1))}
        spec = method_spec(tmp_path, method, splits, steps=4, kind="full")
    one = alone(tmp_path, in_bf16(tmp_path, spec))
    assert_same_training(tmp_path, one, in_processes(tmp_path, divided(one.spec, "fsdp2")))
