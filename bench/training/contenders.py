"""Ways to train the same rows from the same weights. Each gives the loss and the moment of the end of every step."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast, TrainerCallback, set_seed

from bench.training.workload import ACCUMULATE, BATCH, LENGTH, LORA, MICRO, TRAINING, VOCABULARY
from ftplatform.core.payload import TrainSpec
from ftplatform.store import ObjectStore
from ftplatform.training.model import load_base
from ftplatform.training.shards import IGNORED, RowOrder, Rows, document_mask


@dataclass
class Course(TrainerCallback):
    """``losses`` per step; at the end of each the ``moment`` and the processor time of the process, in seconds."""

    losses: list[float] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def on_step_end(self, *args: Any, **rest: Any) -> None:
        self.moments.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


@dataclass(frozen=True)
class Job:
    folder: Path
    spec: TrainSpec
    store: ObjectStore
    rows: Rows
    """In the order in which the steps take them."""

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def model(self) -> Any:
        """As the platform makes it: the same seed draws the same adapter."""
        set_seed(TRAINING.seed)
        lora = LoraConfig(
            r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=LORA.dropout, target_modules=list(LORA.target_modules),
            task_type="CAUSAL_LM",
        )  # fmt: skip
        return get_peft_model(load_base(self.base), lora)


def ordered(rows: Rows, steps: int) -> Rows:
    order = RowOrder(len(rows), BATCH, TRAINING.seed)
    return rows.take(torch.cat([order.of_step(step) for step in range(steps)]))


def bare(job: Job) -> Course:
    """What a person would write: all logits, a mask that keeps documents apart, AdamW."""
    course, net = Course(), job.model().train()
    trainable = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=TRAINING.learning_rate, weight_decay=TRAINING.weight_decay)
    for step in range(job.spec.steps):
        taken, total = job.rows.take(torch.arange(step * BATCH, (step + 1) * BATCH)), 0.0
        for part in range(ACCUMULATE):
            piece = taken.take(torch.arange(part * MICRO, (part + 1) * MICRO))
            logits = net(
                input_ids=piece.input_ids, attention_mask=document_mask(piece.position_ids),
                position_ids=piece.position_ids, use_cache=False,
            ).logits  # fmt: skip
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), piece.targets.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss = loss / taken.supervised
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trainable, TRAINING.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        course.losses.append(total)
        course.on_step_end()
    return course


def platform(job: Job) -> Course:
    """The payload itself, from spec to result."""
    from transformers.trainer import DEFAULT_CALLBACKS

    from ftplatform.store.payload_io import PayloadIO
    from ftplatform.training.job import train

    place = job.folder / f"attempt-{time.monotonic_ns()}"
    place.mkdir()
    (place / "attempt.json").write_text(json.dumps({"attempt": 1}))
    spec, course = job.spec.model_copy(update={"key": f"{time.monotonic_ns():064x}"}), Course()
    DEFAULT_CALLBACKS.append(course)
    try:
        result = train(spec, PayloadIO(place), job.store)
    finally:
        DEFAULT_CALLBACKS.remove(course)
    assert result.outcome == "done", result.message
    return course


def _arguments(job: Job, name: str) -> dict[str, Any]:
    return {
        "output_dir": str(job.folder / name),
        "max_steps": job.spec.steps,
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": ACCUMULATE,
        "learning_rate": TRAINING.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": TRAINING.max_grad_norm,
        "seed": TRAINING.seed,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def _labels(rows: Rows) -> torch.Tensor:
    """Aligned with the ids, as the libraries want them."""
    labels = rows.targets.roll(1, 1)
    labels[:, 0] = IGNORED
    return labels


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    words = models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w2")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w1", pad_token="w0")


def trl(job: Job) -> Course:
    """TRL's SFT trainer on the same rows; from the positions transformers makes the mask that keeps documents apart."""
    from trl import SFTConfig, SFTTrainer

    rows, labels = job.rows, _labels(job.rows)

    def collate(items: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        index = torch.tensor([item["row"] for item in items])
        part = rows.take(index)
        return {"input_ids": part.input_ids, "labels": labels[index], "position_ids": part.position_ids}

    course = Course()
    trainer = SFTTrainer(
        model=job.model(),
        args=SFTConfig(**_arguments(job, "trl"), max_length=LENGTH, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
        data_collator=collate,
        processing_class=_tokenizer(),
        callbacks=[course],
    )
    trainer.train()
    return course


def llama_factory(job: Job) -> Course:
    """LLaMA-Factory's own SFT trainer and collator, with packing (`neat_packing`), on our versions of its libraries: its pins
    are older, its code runs. What reads its YAML, what listens and PPO's model are not used: empty names stand for them.
    """
    import trl

    for name in ("torchaudio", "omegaconf"):
        stub = types.ModuleType(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules.setdefault(name, stub).OmegaConf = object  # type: ignore[attr-defined]
    trl.AutoModelForCausalLMWithValueHead = object
    from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams import FinetuningArguments, TrainingArguments
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    labels, documents = _labels(job.rows), (job.rows.position_ids == 0).cumsum(1)
    columns = {
        "input_ids": job.rows.input_ids, "labels": labels, "attention_mask": documents,
        "position_ids": job.rows.position_ids,
    }  # fmt: skip
    course, net, tokenizer = Course(), job.model(), _tokenizer()
    trainer = CustomSeq2SeqTrainer(
        finetuning_args=FinetuningArguments(disable_shuffling=True),
        processor=None,
        gen_kwargs={},
        model=net,
        args=TrainingArguments(**_arguments(job, "llama-factory")),
        train_dataset=Dataset.from_dict({name: value.tolist() for name, value in columns.items()}),
        data_collator=SFTDataCollatorWith4DAttentionMask(
            template=TEMPLATES["empty"], model=net, pad_to_multiple_of=8, label_pad_token_id=IGNORED,
            block_diag_attn=True, neat_packing=True, attn_implementation="sdpa", tokenizer=tokenizer,
        ),
        tokenizer=tokenizer,
        callbacks=[course],
    )  # fmt: skip
    trainer.train()
    return course


CONTENDERS: dict[str, Callable[[Job], Course]] = {
    "bare PyTorch loop": bare,
    "TRL SFTTrainer": trl,
    "LLaMA-Factory": llama_factory,
    "ftplatform": platform,
}
