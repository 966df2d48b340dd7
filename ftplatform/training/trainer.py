"""transformers' Trainer with packed rows, labelled-position loss and a data order that is a function of the seed.

Why the Trainer and not a loop of our own: docs/decisions/2026-11-22-training-loop.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.shards import RowOrder, Rows, ShardRows

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class PlacedRows(Dataset):
    """The training as one long epoch: item ``i`` is the row at place ``i`` of the data order."""

    def __init__(self, rows: ShardRows, order: RowOrder, batch: int, steps: int) -> None:
        self._rows, self._order, self._batch, self._steps = rows, order, batch, steps

    def __len__(self) -> int:
        return self._batch * self._steps

    def __getitem__(self, place: int) -> int:
        return int(self._order.of_step(place // self._batch)[place % self._batch])

    def collate(self, rows: list[int]) -> dict[str, torch.Tensor]:
        part = self._rows.take(torch.tensor(rows))
        # ``labels`` tells the Trainer to count tokens, ``shift_labels`` that they are shifted already.
        return {
            "input_ids": part.input_ids,
            "position_ids": part.position_ids,
            "labels": part.targets,
            "shift_labels": part.targets,
        }


class SftTrainer(Trainer):
    """Loss = sum over labelled positions / labelled tokens of the effective batch, over micro-batches and ranks."""

    loss_is_scaled_for_ga = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        if num_items_in_batch is None:
            raise RuntimeError(
                "the Trainer did not count the labelled tokens of the batch, so the loss cannot be normalised"
            )
        rows = Rows(inputs["input_ids"], inputs["shift_labels"], inputs["position_ids"])
        with LabelledLogits(self.accelerator.unwrap_model(model)) as labelled:
            loss = labelled.loss_sum(model, rows)
        # Ranks' gradients are averaged, while the count is over all of them.
        return loss * self.accelerator.num_processes / num_items_in_batch


def build_trainer(model: Any, spec: TrainSpec, train: ShardRows, folder: Path, callback: TrainerCallback) -> SftTrainer:
    """A trainer that writes its checkpoints below ``folder`` every ``checkpoint_every`` steps and after the last.

    Raises:
        InvalidConfig: micro-batch x accumulation x processes is not the recipe's effective batch, or the Trainer ended
        up with
            other figures than asked for.
    """
    config = spec.training
    bf16 = config.precision == "bf16"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=spec.steps,
        per_device_train_batch_size=spec.micro_batch,
        gradient_accumulation_steps=spec.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=round(config.warmup_ratio * spec.steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.seed,
        data_seed=config.seed,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    batch = spec.micro_batch * spec.accumulation * arguments.world_size
    if batch != config.batch_size:
        raise InvalidConfig(
            f"micro-batch {spec.micro_batch} x accumulation {spec.accumulation} x {arguments.world_size} processes = "
            f"{batch} sequences a step; the recipe asks for {config.batch_size}"
        )
    rows = PlacedRows(train, RowOrder(len(train), batch, config.seed), batch, spec.steps)
    trainer = SftTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=rows.collate, callbacks=[callback]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@torch.no_grad()
def mean_loss(model: Any, rows: ShardRows, micro_batch: int) -> float:
    """Nats per labelled token of ``rows`` in eval mode. Draws no random number: a data loader would, and shift a
    resumed run.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    total = 0.0
    with LabelledLogits(model) as labelled:
        for start in range(0, len(rows), micro_batch):
            part = rows.take(torch.arange(start, min(start + micro_batch, len(rows)))).to(device)
            if part.supervised:
                total += float(labelled.loss_sum(model, part))
    model.train(training)
    return total / rows.supervised
