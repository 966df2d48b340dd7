"""transformers' Trainer under every strategy, with one checkpoint format for all of them.

Weights as Hugging Face stores them, ``optimizer.pt`` and ``scheduler.pt`` as torch's AdamW has them over whole weights:
DDP, FSDP2 and ZeRO read each other's, whatever the number of processes. Rank 0 gathers and writes all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ftplatform.core.payload import TrainSpec
from ftplatform.core.strategies import DEEPSPEED, SHARDED
from ftplatform.training.distributed import fsdp, optimizer, zero
from ftplatform.training.distributed.engaged import check_strategy
from ftplatform.training.distributed.whole import plain, read_weights

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"


class StrategyTrainer(Trainer):
    """Under ``fsdp2`` the model has to be sharded already (``fsdp.shard``)."""

    def __init__(self, spec: TrainSpec, **rest: Any) -> None:
        self._spec = spec
        self._divided = spec.strategy in SHARDED
        self._groups: list[dict[str, Any]] = []
        super().__init__(**rest)
        # As long as it is set, transformers cuts every model it loads: a teacher, or the base that proves the result.
        unset_hf_deepspeed_config()
        # Where it is true the Trainer leaves a sharded model as it is: no DDP around it, no move to another device.
        self.is_distributed_loading_by_transformers = spec.strategy == "fsdp2"
        # Gradients are summed over the processes once a step where they are an adapter's. Those of full weights are cut
        # after every micro-batch: kept whole until the last one, they would take back the memory that sharding saves.
        if spec.strategy == "fsdp2" and spec.parameterisation != "full":
            self.model._is_fsdp_managed_module = True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """After the training, on every process: inside, the model of process 0 is a plain one in host memory."""
        with plain(self.model, here=self.args.should_save) if self._divided else nullcontext():
            yield

    # What the Trainer calls

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if self._spec.strategy != "fsdp2":
            super()._move_model_to_device(model, device)

    def _prepare_input(self, data: Any) -> Any:
        # Under DeepSpeed the Trainer would round every float of a batch to the weights' type, log-probabilities too.
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made = super().create_optimizer(model)
        self._groups = [{**group, "params": list(group["params"])} for group in made.param_groups]
        return made

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        # A method may have asked the starting model; the optimizer has to be made of the divided weights.
        fsdp.reshard(self.model)
        zero_resume = resume_from_checkpoint if self._spec.strategy in DEEPSPEED else None
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, None if zero_resume else resume_from_checkpoint
        )
        unset_hf_deepspeed_config()
        check_strategy(self._spec, self.model, self.model_wrapped)
        if zero_resume:
            self._load_from_checkpoint(zero_resume)
            self._load_optimizer_and_scheduler(zero_resume)
        return prepared

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def _clip_grad_norm(self, model: Any) -> Any:
        if self._spec.strategy == "fsdp2":
            return fsdp.clip(list(model.parameters()), self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self._divided:
            super().save_model(output_dir, _internal_call)
            return
        with plain(self.model, here=self.args.should_save):
            if self.args.should_save:
                self._save(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._divided:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif not read_weights(self.model, Path(resume_from_checkpoint)):
            with plain(self.model, keep=True):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._divided:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        here = self.args.should_save
        if self._spec.strategy == "fsdp2":
            state = optimizer.whole_state(self.optimizer, here=here)
        else:
            state = zero.optimizer_state(self.model_wrapped, self._groups, here=here)
            for group in state["param_groups"] if here else ():
                # The other strategies take AdamW as one kernel on GPUs, and go by what a checkpoint says.
                group["fused"] = torch.cuda.is_available() or None
        if here:
            torch.save(state, os.path.join(output_dir, _OPTIMIZER))
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, _SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._divided or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # Mapped, not read: the processes of a node share the pages, and each takes its part.
        saved = torch.load(os.path.join(checkpoint, _OPTIMIZER), map_location="cpu", mmap=True, weights_only=True)
        if self._spec.strategy == "fsdp2":
            optimizer.load_state(self.optimizer, saved)
        else:
            zero.load_optimizer_state(self.model_wrapped, self._groups, saved)
        self.lr_scheduler.load_state_dict(torch.load(os.path.join(checkpoint, _SCHEDULER), weights_only=True))
