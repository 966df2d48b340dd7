"""transformers' Trainer around a training method, with a data order that is a function of the seed.

Why the Trainer and not a loop of our own: docs/decisions/2026-11-22-training-loop.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.core.strategies import DEEPSPEED
from ftplatform.training.distributed import fsdp, zero
from ftplatform.training.distributed.engaged import check_processes
from ftplatform.training.distributed.loader import LoaderAlarm
from ftplatform.training.distributed.trainer import StrategyTrainer
from ftplatform.training.distributed.zero_config import deepspeed_config
from ftplatform.training.kernels import OptimizerCheck, engage_liger, optimizer_name
from ftplatform.training.methods.base import Examples, Figures, TrainingMethod
from ftplatform.training.shards import RowOrder

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class PlacedRows(Dataset):
    """The training as one long epoch: item ``i`` is the unit at place ``i`` of the data order."""

    def __init__(self, order: RowOrder, batch: int, steps: int) -> None:
        self._order, self._batch, self._steps = order, batch, steps
        self._units: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self._batch * self._steps

    def __getitem__(self, place: int) -> int:
        step, at = divmod(place, self._batch)
        if step != self._units[0]:
            # Kept for its other places: made anew for each, a step would take the square of its batch.
            self._units = step, self._order.of_step(step).tolist()
        return self._units[1][at]


class Waited:
    """An iterator that counts the seconds in which it had nothing to give."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source, self.seconds = source, 0.0

    def __next__(self) -> Any:
        begun = time.monotonic()
        try:
            return next(self._source)
        finally:
            self.seconds += time.monotonic() - begun


class MethodTrainer(StrategyTrainer):
    """Loss = the method's sum / labelled tokens or units of the effective batch, over micro-batches and ranks."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, method: TrainingMethod, examples: Examples, units: int, alarm: LoaderAlarm | None = None, **rest: Any
    ) -> None:
        super().__init__(method.spec, **rest)
        self._method, self._examples, self._units, self._figures = method, examples, units, Figures()
        self._alarm, self._begun, self._waited = alarm or LoaderAlarm(lambda line: None), 0.0, 0.0

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **rest: Any) -> tuple[list[Any], Any]:
        self._begun = time.monotonic()
        waited = Waited(epoch_iterator)
        batches, items = super().get_batch_samples(waited, *args, **rest)
        self._waited = waited.seconds
        if items is None and batches and "labels" in batches[0]:
            raise RuntimeError(
                "the Trainer did not count the labelled tokens of the batch, so the loss cannot be normalised"
            )
        if batches:
            with self.compute_loss_context_manager():
                batches = self._method.prepare(self.model_wrapped, batches, self._examples, self.state.global_step)
        return batches, torch.tensor(self._units) if items is None else items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        loss = self._method.loss(model, inputs, self._figures)
        # Ranks' gradients are averaged, while the count is over all of them.
        return loss * self.accelerator.num_processes / num_items_in_batch

    def log(self, logs: dict[str, float], *args: Any, **rest: Any) -> None:
        if "loss" in logs:
            share = self._alarm.note(self._waited, time.monotonic() - self._begun)
            logs = logs | self._figures.take() | {"data_wait_share": round(share, 4)}
        super().log(logs, *args, **rest)


def build_trainer(
    model: Any,
    method: TrainingMethod,
    train: Examples,
    folder: Path,
    callback: TrainerCallback,
    say: Callable[[str], object] = lambda line: None,
) -> MethodTrainer:
    """A trainer that writes its checkpoints below ``folder`` every ``checkpoint_every`` steps and after the last.

    ``model`` is divided here as the spec's strategy says. ``say`` gets a line where the data are slower than the steps.

    Raises:
        InvalidConfig: micro-batch x accumulation x processes is not the recipe's effective batch; a strategy for other
            processes than there are.
    """
    spec, config = method.spec, method.spec.training
    config_of_zero = deepspeed_config(spec) if spec.strategy in DEEPSPEED else None
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
        optim=optimizer_name(spec),
        seed=config.seed,
        data_seed=config.seed,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        save_strategy="no" if spec.probe else "steps",
        save_steps=config.checkpoint_every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        deepspeed=config_of_zero,
    )
    _ = arguments.device  # opens the process group where nobody has
    check_processes(spec)
    batch = spec.micro_batch * spec.accumulation * arguments.world_size
    if batch != config.batch_size:
        raise InvalidConfig(
            f"micro-batch {spec.micro_batch} x accumulation {spec.accumulation} x {arguments.world_size} processes = "
            f"{batch} sequences a step; the recipe asks for {config.batch_size}"
        )
    engage_liger(model)
    _divide(model, spec, arguments, config_of_zero)
    places = PlacedRows(RowOrder(len(train), batch, config.seed), batch, spec.steps)
    trainer = MethodTrainer(
        method, train, batch, LoaderAlarm(say),
        model=model, args=arguments, train_dataset=places, data_collator=train.collate,
        callbacks=[callback, OptimizerCheck(spec)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _divide(model: Any, spec: TrainSpec, arguments: TrainingArguments, config: dict[str, Any] | None) -> None:
    if config:
        zero.open_deepspeed()
    if spec.strategy == "fsdp2":
        fsdp.shard(model, bf16=arguments.bf16)
    elif config and config["zero_optimization"]["stage"] == 3:
        zero.partition(model, config)
    elif config:
        # DeepSpeed moves it at the first step only, and a method may ask the starting model before.
        model.to(arguments.device)
