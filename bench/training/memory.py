"""Memory of the loss with a vocabulary of 128,000: all logits against ours, by the peak resident size of a process each."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

OUT = Path(__file__).parents[1] / "results" / "training_memory.md"
WAYS = {
    "nothing but the model's body": "hidden states and their gradients, no logits",
    "all logits": "the model's own: `labels` given to it, as transformers' Trainer, LLaMA-Factory and a bare loop do",
    "logits at labelled positions": "a third of them, all at once",
    "ours": "logits at labelled positions, 1,024 at a time, made again for the backward pass",
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training memory", description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_measure(options.one, options.vocabulary, options.rows)))
        return
    found = {}
    for name in WAYS:
        command = [sys.executable, "-m", "bench.training", "memory", "--one", name, "--rows", str(options.rows)]
        command += ["--vocabulary", str(options.vocabulary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    report = _report(found, options)
    print(report)
    OUT.write_text(report)


def _measure(way: str, vocabulary: int, count: int) -> dict[str, float]:
    """``before`` and ``peak`` resident bytes, and the loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bench.training.workload import LENGTH, packed_rows
    from ftplatform.training import loss as chunked
    from ftplatform.training.attention import document_inputs, engage_attention
    from ftplatform.training.shards import IGNORED

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LlamaForCausalLM._from_config(
        LlamaConfig(vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
                    max_position_embeddings=LENGTH, tie_word_embeddings=True), attn_implementation="sdpa",
    )  # fmt: skip
    # As under an adapter: the output layer is frozen, its input is not.
    model.requires_grad_(False)
    for parameter in model.model.layers.parameters():
        parameter.requires_grad_(True)
    engage_attention(model, "fp32")
    rows = packed_rows(count, vocabulary=vocabulary)
    inputs = {"input_ids": rows.input_ids, "position_ids": rows.position_ids, "use_cache": False}
    before = _resident()
    if way == "nothing but the model's body":
        states = model.model(**inputs, **document_inputs(model, rows.position_ids)).last_hidden_state
        loss = states.pow(2).mean()
    elif way == "all logits":
        labels = rows.targets.roll(1, 1)
        labels[:, 0] = IGNORED
        told = document_inputs(model, rows.position_ids)
        loss = model(**inputs, **told, labels=labels, num_items_in_batch=rows.supervised).loss
    else:
        if way != "ours":
            chunked.SMALL_VOCABULARY = vocabulary
        with chunked.LabelledLogits(model) as labelled:
            loss = labelled.loss_sum(model, rows) / rows.supervised
    loss.backward()
    return {"before": before, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "loss": loss.item()}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _report(found: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    losses = {name: one["loss"] for name, one in found.items() if "logits" in name or name == "ours"}
    if max(losses.values()) - min(losses.values()) > 1e-4:
        sys.exit(f"the ways do not compute the same loss: {losses}")
    lines = [
        "# Training: memory of the loss",
        "",
        f"`python -m bench.training memory`: vocabulary {options.vocabulary:,}, {options.rows} packed rows of 512 tokens, 32 bits, "
        "CPU, forward and backward; a small body (64 hidden units, one block) so that the loss is what counts; peak resident size "
        f"of a process each, above what it held before. The same loss ({min(losses.values()):.4f}).",
        "",
        "| loss by | peak, GB | |",
        "|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(f"| {name} | {(one['peak'] - one['before']) / 1e9:.2f} | {WAYS[name]} |")
    return "\n".join([*lines, ""])
