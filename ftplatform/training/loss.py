"""Logits only where a label is, and what is made of them: the next-token loss, log-probabilities, a distance to a teacher.

Packed chat rows carry loss on a third of their positions or fewer, and for a small model the logits are most of the
work: the hidden states are thinned out in front of the output layer, which leaves the loss as it was
(``bench/results/training_loop.md``). With a large vocabulary logits exist in chunks, so that their memory does not grow
with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.utils.checkpoint
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

from ftplatform.training.attention import document_inputs
from ftplatform.training.shards import Rows, labelled_positions

CHUNK = 1024
"""Labelled positions whose logits exist at a time: at a vocabulary of 128,000 those are 0.5 GB in float32, where all of a
long batch's would be ten and more. The planner counts with it."""
SMALL_VOCABULARY = 8192
"""Up to it all logits at once cost little, and taking them in parts would only cost time."""
_RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings by which a model changes its logits behind the output layer, where chunks do not pass."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits [n, V] at n labelled positions, which may still have to be made."""

    values: torch.Tensor
    """They themselves, or where ``head`` is given the hidden states [n, H] that it makes them of."""
    head: Callable[[torch.Tensor], torch.Tensor] | None = None

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Logits of some of ``values``."""
        return self.head(values) if self.head else values


def in_chunks(compute: Callable[..., T], logits: Sequence[Logits], *along: torch.Tensor, size: int = CHUNK) -> list[T]:
    """``compute`` of each of ``logits`` and of tensors ``along`` with them [n, ...], for ``size`` positions at a time.

    With a small vocabulary or few positions there is one part. Otherwise logits are made again for the backward pass: that
    is the output layer once more, for the memory of all logits, their copies in float32 and their gradients.
    """
    values = [one.values for one in logits]
    large = any(one.head or one.values.shape[-1] > SMALL_VOCABULARY for one in logits)

    def part(*tensors: torch.Tensor) -> T:
        made = [one.of(tensor) for one, tensor in zip(logits, tensors, strict=False)]
        return compute(*made, *tensors[len(logits) :])

    if not large or len(values[0]) <= size:
        return [part(*values, *along)]
    pieces = zip(*(tensor.split(size) for tensor in (*values, *along)), strict=True)
    return [torch.utils.checkpoint.checkpoint(part, *piece, use_reentrant=False) for piece in pieces]


class LabelledLogits:
    """While entered, the output layer of ``model`` sees only the hidden states of labelled positions.

    A forward pre-hook on the output layer, so that it holds for every Hugging Face causal model and through PEFT's
    wrapping. ``model`` is the bare one; what is called may be wrapped for several processes.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head: torch.nn.Module = model.get_output_embeddings()
        self._labelled: torch.Tensor | None = None
        self._length = 0
        self._keep = False
        self._kept: Logits | None = None

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
        hidden = args[0][:, -self._length :].flatten(0, 1).index_select(0, self._labelled)
        if not self._keep:
            return (hidden, *args[1:])
        self._kept = Logits(hidden, self._later(hidden.device.type))
        return (hidden[:0], *args[1:])

    def _later(self, kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The output layer, for when the model's forward is over."""
        dtype, on = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

        def head(states: torch.Tensor) -> torch.Tensor:
            # Outside the model's forward the Trainer's autocast is off; the layer has to compute as it does inside.
            with torch.autocast(kind, dtype=dtype, enabled=on):
                logits: torch.Tensor = self._head(states)
            return logits

        return head

    def loss_sum(self, model: Any, rows: Rows) -> torch.Tensor:
        """Sum over labelled positions of the negative log-likelihood, in nats (float32 scalar).

        Raises:
            RuntimeError: the model did not put its hidden states through the output layer as [B, L, H], so the thinning did
                not engage; such an architecture is not supported.
        """
        labelled = labelled_positions(rows.targets) if rows.labelled is None else rows.labelled
        targets = rows.targets.flatten().index_select(0, labelled)
        return torch.stack(in_chunks(nll_sum, [self.packed(model, rows, labelled)], targets)).sum()

    def packed(self, model: Any, rows: Rows, labelled: torch.Tensor) -> Logits:
        """At the ``labelled`` positions [n] of packed rows, row by row; raises as ``loss_sum``."""
        apart = document_inputs(self._model, rows.position_ids, rows.documents)
        return self.at(model, labelled, input_ids=rows.input_ids, position_ids=rows.position_ids, **apart)

    def at(self, model: Any, labelled: torch.Tensor, *, input_ids: torch.Tensor, **inputs: Any) -> Logits:
        """At the ``labelled`` positions (``labelled_positions``, int64 [n]) of ``input_ids`` [B, L]; raises as ``loss_sum``."""
        count = len(labelled)
        self._labelled, self._length = labelled, input_ids.shape[1]
        self._keep, self._kept = count > CHUNK and self._apart(), None
        try:
            logits: torch.Tensor = model(input_ids=input_ids, **inputs, use_cache=False).logits
        finally:
            self._labelled = None
        kept, self._kept = self._kept, None
        made = kept if self._keep else Logits(logits)
        if logits.shape[:-1] != ((0,) if self._keep else (count,)) or made is None or len(made.values) != count:
            raise RuntimeError(
                f"logits at labelled positions did not engage on {type(model).__name__}: "
                f"got {tuple(logits.shape)} for {count} labelled positions"
            )
        return made

    def _apart(self) -> bool:
        """Whether the output layer can be called in parts and apart from the model."""
        config = self._model.config.get_text_config()
        plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in _RESCALED)
        # The output layer of a sharded model has its weights while the model runs, and afterwards by chance.
        sharded = isinstance(self._model, FSDPModule) or any(hasattr(one, "ds_id") for one in self._head.parameters())
        return config.vocab_size > SMALL_VOCABULARY and plain and not sharded


def nll_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of ``targets`` [n] under ``logits`` [n, V], in nats: float32 scalar."""
    return cross_entropy(logits.float(), targets, reduction="sum")
