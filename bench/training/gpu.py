"""On a GPU, in one go: the planner's peak memory against the measured one, LoRA's memory against full training's, tokens per
second against TRL's defaults, and model FLOPs utilisation against the measured rate of a matrix product.

Weights are random, made here from a config: nothing is loaded from anywhere. Every case is a process of its own, so that one
that runs out of memory is a line in the table. ``--dry-run`` takes the same path on a CPU with a shape of a million weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "results" / "training_gpu.md"
LLAMA: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False},
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True, "vocab_size": 4096},
}  # fmt: skip
"""Shapes of Llama 3.2 1B and 3B and Llama 3.1 8B."""


@dataclass(frozen=True)
class Kind:
    """A training to measure: ``bare`` holds the weights in bf16 under 8-bit AdamW, else they are fp32 under AdamW."""

    parameterisation: str
    quantization: str = "none"
    bare: bool = False
    checkpointing: bool = False


KINDS = {
    "full": Kind("full", bare=True),
    "lora": Kind("lora"),
    "qlora": Kind("lora", "nf4"),
    "full, mixed precision": Kind("full", checkpointing=True),
    "lora, checkpointing": Kind("lora", checkpointing=True),
}
"""The last two are a pair: what LoRA saves beside full training as it is done where memory allows, 16 bytes a weight."""
PAIR = ("full, mixed precision", "lora, checkpointing")
LENGTHS = (1024, 4096)
MICRO, ACCUMULATE = 2, 2
STEPS = 6


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with a tiny shape; writes no table")
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B", "8B"], choices=LLAMA)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--work", type=Path, help="folder for weights: 20 GB for 8B; a temporary one by default")
    parser.add_argument("--one", nargs=4, metavar=("WAY", "SHAPE", "KIND", "LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        way, shape, kind, length = options.one
        print(json.dumps(_case(way, shape, kind, int(length), options.work)))
        return
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        sys.exit("no CUDA device is here, so nothing can be measured; --dry-run goes the same way on a CPU")
    shapes, lengths, kinds = options.shapes, options.lengths, list(KINDS)
    if options.dry_run:
        # bitsandbytes' CPU kernels need a library that is not everywhere; on a GPU QLoRA runs.
        shapes, lengths, kinds = ["tiny"], [64, 128], [kind for kind in KINDS if kind != "qlora"]
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for shape in shapes:
            for length in lengths:
                for kind in kinds if length == lengths[0] else [kind for kind in kinds if kind not in PAIR]:
                    cases.append(_run("ftplatform", shape, kind, length, work))
            cases.append(_run("trl", shape, "lora", lengths[0], work))
            cases.append(_run("trl", shape, "lora, checkpointing", lengths[0], work))
    rate = _matrix_rate()
    report = _report(cases, rate, options.dry_run)
    print(report)
    if not options.dry_run:
        OUT.write_text(report)


def _run(way: str, shape: str, kind: str, length: int, work: Path) -> dict[str, Any]:
    named = {"way": way, "shape": shape, "kind": kind, "length": length}
    command = [
        sys.executable,
        "-m",
        "bench.training",
        "gpu",
        "--work",
        str(work),
        "--one",
        way,
        shape,
        kind,
        str(length),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        found = {"failed": "out of memory" if "OutOfMemoryError" in done.stderr else said[-1][:200]}
    else:
        found = json.loads(done.stdout.splitlines()[-1])
    print(named | found, file=sys.stderr, flush=True)
    return named | found


def _weights(shape: str, work: Path) -> Path:
    """Folder of a model of this shape with random weights, made once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = work / shape
    if not (folder / "done").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            **({"vocab_size": 128_256} | LLAMA[shape]), max_position_embeddings=8192, bos_token_id=1, eos_token_id=1,
            pad_token_id=0, dtype="bfloat16",
        )  # fmt: skip
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        (folder / "done").touch()
    return folder


def _case(way: str, shape: str, kind: str, length: int, work: Path) -> dict[str, Any]:
    """Figures of one training: ``peak`` GB, ``planned`` GB, ``speed`` tokens/s, ``flops`` per second, ``losses``."""
    import torch

    from bench.training.contenders import Course
    from bench.training.workload import packed_rows
    from ftplatform.core.payload import StoreAddress, TrainSpec
    from ftplatform.core.recipe import LoraConfig, TrainingConfig
    from ftplatform.planning.flops import model_flops
    from ftplatform.planning.memory import Layout, estimate_memory, expected_peak
    from ftplatform.planning.setup import Setup
    from ftplatform.planning.shapes import ModelShape
    from ftplatform.training.figures import peak_memory
    from ftplatform.training.shards import RowOrder

    gpu, batch = torch.cuda.is_available(), MICRO * ACCUMULATE
    base = _weights(shape, work)
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    precision, chosen = "bf16" if gpu else "fp32", KINDS[kind]
    bare = gpu and chosen.bare
    training = TrainingConfig(
        learning_rate=1e-4, batch_size=batch, max_length=length, precision=precision, schedule="constant", warmup_ratio=0.0,
        quantization=chosen.quantization, checkpoint_every=100_000, weights="bf16" if bare else "fp32",
        optimizer="adamw_8bit" if bare else "adamw",
    )  # fmt: skip
    spec = TrainSpec(
        key="0" * 64, store=StoreAddress(url=(work / "store").as_uri()), base_weights="0" * 64, shards={}, max_length=length,
        method="sft", parameterisation=chosen.parameterisation, lora=LoraConfig(rank=16, alpha=32), training=training,
        micro_batch=MICRO, accumulation=ACCUMULATE, steps=STEPS, threads=os.cpu_count() or 1,
        gradient_checkpointing=chosen.checkpointing,
    )  # fmt: skip
    config = json.loads((base / "config.json").read_text())
    rows = packed_rows(STEPS * batch, length, config["vocab_size"])
    order = RowOrder(len(rows), batch, training.seed)
    rows = rows.take(torch.cat([order.of_step(step) for step in range(STEPS)])) if way == "trl" else rows
    course = Course()
    (_train if way == "ftplatform" else _train_trl)(spec, base, rows, course, work)
    seconds = course.moments[-1] - course.moments[1]
    tokens = (STEPS - 2) * batch * length
    model = ModelShape.from_config(config)
    setup = Setup(
        parameterisation=spec.parameterisation, lora=spec.lora, quantization=training.quantization, optimizer=training.optimizer,
        precision=precision, weights=training.weights,
    )  # fmt: skip
    labelled = rows.supervised / rows.input_ids.numel()
    layout = Layout(
        MICRO, length, accumulation=ACCUMULATE, masked=False, labelled=labelled, checkpointing=chosen.checkpointing
    )
    documents = float((rows.position_ids == 0).sum())
    flops = model_flops(
        model, setup, tokens=tokens, labelled=tokens * labelled, length=rows.input_ids.numel() / documents
    )
    planned = expected_peak(estimate_memory(model, setup, layout, gpu=gpu), ACCUMULATE)
    return {
        "peak": peak_memory() / 1e9, "planned": planned, "speed": tokens / seconds, "flops": flops / seconds,
        "losses": course.losses,
    }  # fmt: skip


def _train(spec: Any, base: Path, rows: Any, course: Any, work: Path) -> None:
    """The payload's own model, method and trainer, without the store around them."""
    from transformers import set_seed

    from ftplatform.store import open_store
    from ftplatform.training.activation_checkpointing import checkpoint_activations
    from ftplatform.training.methods.base import Work, open_method
    from ftplatform.training.methods.tokens import PackedExamples
    from ftplatform.training.shards import IGNORED, ShardRows
    from ftplatform.training.trainer import build_trainer

    set_seed(spec.training.seed)
    method = open_method(Work(spec, open_store(spec.store), base, work / "passing", lambda message: None))
    labels = rows.targets.roll(1, 1)
    labels[:, 0] = IGNORED
    examples = PackedExamples(ShardRows([(rows.input_ids, labels, rows.position_ids)]))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        model = method.model()
        if spec.gradient_checkpointing:
            checkpoint_activations(model)
        trainer = build_trainer(model, method, examples, Path(folder), course)
        trainer.args.save_strategy = "no"
        trainer.train()


def _train_trl(spec: Any, base: Path, rows: Any, course: Any, work: Path) -> None:
    """TRL's SFT trainer as it comes: its default attention and optimizer; its default is to checkpoint activations."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    from bench.training.contenders import _tokenizer
    from ftplatform.training.shards import IGNORED

    labels = rows.targets.roll(1, 1)
    labels[:, 0] = IGNORED

    def collate(items: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        index = torch.tensor([item["row"] for item in items])
        part = rows.take(index)
        return {"input_ids": part.input_ids, "labels": labels[index], "position_ids": part.position_ids}

    gpu = torch.cuda.is_available()
    set_seed(spec.training.seed)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16 if gpu else torch.float32, local_files_only=True
    )
    lora = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=list(spec.lora.target_modules),
        task_type="CAUSAL_LM",
    )
    with tempfile.TemporaryDirectory(dir=work) as folder:
        given = SFTConfig(
            output_dir=folder, max_steps=spec.steps, per_device_train_batch_size=MICRO, gradient_accumulation_steps=ACCUMULATE,
            learning_rate=1e-4, lr_scheduler_type="constant", max_grad_norm=spec.training.max_grad_norm, bf16=gpu, use_cpu=not gpu,
            train_sampling_strategy="sequential", remove_unused_columns=False, gradient_checkpointing=spec.gradient_checkpointing, report_to="none",
            save_strategy="no", logging_steps=1, disable_tqdm=True, max_length=spec.max_length, seed=spec.training.seed,
            dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=given, train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}), data_collator=collate,
            processing_class=_tokenizer(), callbacks=[course], peft_config=lora,
        )  # fmt: skip
        trainer.train()


def _matrix_rate() -> float:
    """FLOPs per second of a bf16 product of two 8192 x 8192 matrices (fp32, 1024 on a CPU): the best of ten."""
    import torch

    gpu = torch.cuda.is_available()
    size, kind = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    a = torch.randn(size, size, dtype=kind, device="cuda" if gpu else "cpu")
    best = float("inf")
    for _ in range(13):
        begun = time.perf_counter()
        _ = a @ a
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def _report(cases: list[dict[str, Any]], rate: float, dry: bool) -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (dry run: no figure means anything)"
    lines = [
        "# Training on a GPU",
        "",
        f"`python -m bench.training gpu{' --dry-run' if dry else ''}` on {device}; torch {torch.__version__}. Random weights, micro-batch "
        f"{MICRO}, accumulation {ACCUMULATE}, {STEPS} steps, the first two not counted; LoRA r=16 on all linear layers; `full` with bf16 weights and 8-bit AdamW; no "
        f"activation checkpointing but in the pair `{PAIR[0]}` (fp32 weights, AdamW, checkpointed too) and `{PAIR[1]}`, which is also "
        f"TRL's default. Matrix rate measured: {rate / 1e12:.1f} TFLOP/s. Peak is of the allocator, with the context.",
        "",
        "| shape | training | length | planned GB | measured GB | off by | tokens/s | of the matrix rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        name = case["kind"] if case["way"] == "ftplatform" else f"{case['kind']}, TRL"
        head = f"| {case['shape']} | {name} | {case['length']} |"
        if "failed" in case:
            lines.append(f"{head} | | {case['failed']} | | | |")
            continue
        planned = ("", "") if case["way"] == "trl" else (
            f"{case['planned']:.1f}", f"{case['planned'] / case['peak'] - 1:+.0%}"
        )  # fmt: skip
        lines.append(
            f"{head} {planned[0]} | {case['peak']:.1f} | {planned[1]} | {case['speed']:,.0f} | {case['flops'] / rate:.1%} |"
        )
    done = {(c["way"], c["shape"], c["kind"], c["length"]): c for c in cases if "failed" not in c}
    lines.append("")
    for (way, shape, kind, length), one in done.items():
        if way == "ftplatform" and kind == PAIR[1] and (full := done.get((way, shape, PAIR[0], length))):
            lines.append(
                f"- {shape}, {length}: LoRA takes {1 - one['peak'] / full['peak']:.0%} less memory than full training."
            )
        if way == "trl" and (ours := done.get(("ftplatform", shape, "lora", length))):
            apart = max(abs(a - b) / b for a, b in zip(ours["losses"], one["losses"], strict=True))
            lines.append(
                f"- {shape}, {length}: {ours['speed'] / one['speed']:.2f}x the tokens/s of TRL ({kind}); losses apart by at most "
                f"{apart:.1e} (relative)."
            )
    return "\n".join([*lines, ""])
