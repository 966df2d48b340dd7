"""Next-token loss with logits only where a label is.

Packed chat rows carry loss on a third of their positions or fewer, and for a small model the logits are most of the
work: the hidden states are thinned out in front of the output layer, which leaves the loss as it was
(``bench/results/training_loop.md``). With a large vocabulary the loss is taken in chunks, so that its memory does not grow
with the batch.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
import torch.distributed.tensor
import torch.utils.checkpoint

from ftplatform.training.attention import document_inputs
from ftplatform.training.shards import IGNORED, Rows

CHUNK = 1024
"""Labelled positions whose logits exist at a time: at a vocabulary of 128,000 those are 0.5 GB in float32, where all of a
long batch's would be ten and more. The planner counts with it."""
SMALL_VOCABULARY = 8192
"""Up to it all logits at once cost little, and taking them in parts would only cost time."""
_RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings by which a model changes its logits behind the output layer, where chunks do not pass."""


class LabelledLogits:
    """While entered, the output layer of ``model`` sees only the hidden states of labelled positions.

    A forward pre-hook on the output layer, so that it holds for every Hugging Face causal model and through PEFT's
    wrapping.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head: torch.nn.Module = model.get_output_embeddings()
        self._labelled: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None
        self._keep = False

    def __enter__(self) -> LabelledLogits:
        self._handle = self._head.register_forward_pre_hook(self._thin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _thin(self, module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._labelled is None:
            return args
        # Positions of a trained prompt stand in front of the row and carry no label.
        hidden = args[0][:, -self._labelled.shape[1] :][self._labelled]
        if not self._keep:
            return (hidden, *args[1:])
        self._hidden, kind = hidden, hidden.device.type
        self._cast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return (hidden[:0], *args[1:])

    def loss_sum(self, model: Any, rows: Rows) -> torch.Tensor:
        """Sum over labelled positions of the negative log-likelihood, in nats (float32 scalar).

        Raises:
            RuntimeError: the model did not put its hidden states through the output layer as [B, L, H], so the thinning
            did
                not engage; such an architecture is not supported.
        """
        labelled = rows.targets != IGNORED
        if int(labelled.sum()) > CHUNK and self._in_chunks(model):
            return self._chunked_loss(model, rows, rows.targets[labelled])
        logits = self.packed_logits(model, rows)
        return torch.nn.functional.cross_entropy(logits.float(), rows.targets[labelled], reduction="sum")

    def _in_chunks(self, model: Any) -> bool:
        config = model.config.get_text_config()
        plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in _RESCALED)
        # The output layer of a sharded model has its weights only while the model runs.
        whole = not any(
            isinstance(weight, torch.distributed.tensor.DTensor) or hasattr(weight, "ds_id")
            for weight in self._head.parameters()
        )
        return config.vocab_size > SMALL_VOCABULARY and plain and whole

    def _chunked_loss(self, model: Any, rows: Rows, targets: torch.Tensor) -> torch.Tensor:
        """``loss_sum`` with the logits of ``CHUNK`` positions at a time, made again for the backward pass."""
        self._keep = True
        try:
            self.packed_logits(model, rows)
        finally:
            self._keep = False
        hidden, self._hidden, self._labelled = self._hidden, None, None
        assert hidden is not None
        parts = [
            torch.utils.checkpoint.checkpoint(self._part, states, wanted, use_reentrant=False)
            for states, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
        ]
        return torch.stack(parts).sum()

    def _part(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Outside the model's forward the Trainer's autocast is off; the layer has to compute as it does inside.
        kind, dtype, on = self._cast
        with torch.autocast(kind, dtype=dtype, enabled=on):
            logits = self._head(states)
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")

    def packed_logits(self, model: Any, rows: Rows) -> torch.Tensor:
        """[n, V] at the n labelled positions of packed rows, row by row; raises as ``loss_sum``."""
        apart = document_inputs(self._model, rows.position_ids)
        labelled = rows.targets != IGNORED
        return self.logits(model, labelled, input_ids=rows.input_ids, position_ids=rows.position_ids, **apart)

    def logits(self, model: Any, labelled: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """[n, V] at the n positions where ``labelled`` (bool [B, L]) is true; raises as ``loss_sum``."""
        self._labelled = labelled
        count = int(labelled.sum())
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        engaged = logits.shape[:-1] == ((0,) if self._keep else (count,))
        if not engaged or (self._keep and (self._hidden is None or len(self._hidden) != count)):
            raise RuntimeError(
                f"logits at labelled positions did not engage on {type(model).__name__}: "
                f"got {tuple(logits.shape)} for {count} labelled positions"
            )
        return logits
