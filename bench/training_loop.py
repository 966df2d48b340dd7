"""Which loop should train? Tokens per second of five ways to do the same LoRA steps, in one process, one thread, rounds
alternating.

    OMP_NUM_THREADS=1 python bench/training_loop.py [steps] [rounds]

1.3 M-parameter Llama, vocabulary 4096, 8 packed rows of 512 tokens a step in micro-batches of 4, LoRA r=8 on all linear
layers, labels on a quarter of the positions. Writes bench/results/training_loop.md.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from ftplatform.training.loss import LabelledLogits
from ftplatform.training.shards import IGNORED, Rows, document_mask

LENGTH, VOCABULARY, MICRO, ACCUMULATE = 512, 4096, 4, 2
LORA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=LENGTH, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=8, lora_alpha=16, target_modules=LORA, task_type="CAUSAL_LM")
    )


def rows(count: int) -> Rows:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (count, LENGTH), generator=draw)
    positions = torch.arange(LENGTH).remainder(64).expand(count, LENGTH).contiguous()
    targets = ids.roll(-1, 1).where((positions >= 46) & (positions < 62), IGNORED)
    return Rows(ids, targets, positions)


def loop(loss_sum: Callable[[torch.nn.Module, Rows], torch.Tensor], steps: int, data: Rows) -> float:
    net = model()
    net.train()
    trainable = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    batch = MICRO * ACCUMULATE
    begin = time.perf_counter()
    for step in range(steps):
        taken = data.take(torch.arange(step * batch, (step + 1) * batch))
        count = taken.supervised
        for part in range(ACCUMULATE):
            piece = taken.take(torch.arange(part * MICRO, (part + 1) * MICRO))
            (loss_sum(net, piece) / count).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begin


def all_logits(net: torch.nn.Module, part: Rows) -> torch.Tensor:
    mask = document_mask(part.position_ids)
    out = net(input_ids=part.input_ids, attention_mask=mask, position_ids=part.position_ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        out.flatten(0, 1), part.targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def bare(steps: int, data: Rows) -> float:
    return loop(all_logits, steps, data)


def ours(steps: int, data: Rows) -> float:
    def loss_sum(net: torch.nn.Module, part: Rows) -> torch.Tensor:
        with LabelledLogits(net) as labelled:
            return labelled.loss_sum(net, part)

    return loop(loss_sum, steps, data)


def arguments(folder: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": ACCUMULATE,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


class Collate:
    def __init__(self, data: Rows) -> None:
        self.data = data

    def __call__(self, items: list[dict]) -> dict:
        part = self.data.take(torch.tensor([item["row"] for item in items]))
        labels = torch.full_like(part.targets, IGNORED)
        labels[:, 1:] = part.targets[:, :-1]
        mask = document_mask(part.position_ids)
        return {
            "input_ids": part.input_ids,
            "labels": labels,
            "position_ids": part.position_ids,
            "attention_mask": mask,
        }


class LabelledTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        targets = torch.full_like(inputs["labels"], IGNORED)
        targets[:, :-1] = inputs["labels"][:, 1:]
        with LabelledLogits(model) as labelled:
            loss = labelled.loss_sum(model, Rows(inputs["input_ids"], targets, inputs["position_ids"]))
        return loss / num_items_in_batch


def with_trainer(kind: type[Trainer], steps: int, data: Rows) -> float:
    with tempfile.TemporaryDirectory() as folder:
        given = TrainingArguments(**arguments(folder, steps), gradient_checkpointing=False, remove_unused_columns=False)
        trainer = kind(
            model=model(),
            args=given,
            data_collator=Collate(data),
            train_dataset=Dataset.from_dict({"row": list(range(len(data)))}),
        )
        begin = time.perf_counter()
        trainer.train()
        return time.perf_counter() - begin


def trl_sft(steps: int, data: Rows) -> float:
    from tokenizers import Tokenizer, models
    from trl import SFTConfig, SFTTrainer

    words = {f"w{n}": n for n in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")), eos_token="w1", pad_token="w0"
    )
    labels = torch.zeros_like(data.targets)
    labels[:, 1:] = data.targets[:, :-1] != IGNORED
    table = Dataset.from_dict({"input_ids": data.input_ids.tolist(), "completion_mask": labels.tolist()})
    with tempfile.TemporaryDirectory() as folder:
        given = SFTConfig(
            **arguments(folder, steps), gradient_checkpointing=False, max_length=LENGTH, completion_only_loss=True
        )
        trainer = SFTTrainer(model=model(), args=given, train_dataset=table, processing_class=tokenizer)
        begin = time.perf_counter()
        trainer.train()
        return time.perf_counter() - begin


WAYS: dict[str, Callable[[int, Rows], float]] = {
    "bare PyTorch loop": bare,
    "transformers Trainer": lambda steps, data: with_trainer(Trainer, steps, data),
    "TRL SFTTrainer": trl_sft,
    "Trainer, logits at labelled positions": lambda steps, data: with_trainer(LabelledTrainer, steps, data),
    "own loop, logits at labelled positions": ours,
}


def main() -> None:
    steps, rounds = (int(text) for text in (sys.argv[1:] + ["12", "3"][len(sys.argv) - 1 :])[:2])
    torch.set_num_threads(1)
    data = rows(steps * MICRO * ACCUMULATE)
    tokens = data.input_ids.numel()
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    for way in WAYS.values():
        way(1, data)
    for number in range(rounds):
        for name, way in WAYS.items():
            speeds[name].append(tokens / way(steps, data))
            print(f"round {number + 1}: {name}: {speeds[name][-1]:,.0f} tokens/s", flush=True)
    reference = statistics.median(speeds["bare PyTorch loop"])
    lines = [
        "# Training loop: tokens per second",
        "",
        "1.3 M-parameter Llama, vocabulary 4096, 8 packed rows of 512 tokens a step in micro-batches of 4, LoRA r=8 on",
        f"all linear layers, labels on a quarter of the positions. torch {torch.__version__}, CPU, one thread; {rounds}",
        f"alternating rounds of {steps} steps ({tokens:,} tokens) in one process; medians, all rounds in brackets.",
        "",
        "| way | tokens/s | against the bare loop |",
        "|---|---|---|",
    ]
    for name, values in speeds.items():
        each = ", ".join(f"{value:,.0f}" for value in values)
        lines.append(
            f"| {name} | {statistics.median(values):,.0f} ({each}) | {statistics.median(values) / reference:.2f} |"
        )
    (Path(__file__).parent / "results" / "training_loop.md").write_text("\n".join(lines) + "\n")
    print(json.dumps({name: statistics.median(values) for name, values in speeds.items()}))


if __name__ == "__main__":
    main()
