"""Next-token loss with logits only where a label is.

Packed chat rows carry loss on a third of their positions or fewer, and for a small model the logits are most of the
work: the hidden states are thinned out in front of the output layer, which leaves the loss as it was
(``bench/results/training_loop.md``).
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

from ftplatform.training.shards import IGNORED, Rows, document_mask


class LabelledLogits:
    """While entered, the output layer of ``model`` sees only the hidden states of labelled positions.

    A forward pre-hook on the output layer, so that it holds for every Hugging Face causal model and through PEFT's
    wrapping.
    """

    def __init__(self, model: Any) -> None:
        self._head: torch.nn.Module = model.get_output_embeddings()
        self._flash = "flash" in str(model.config._attn_implementation)
        self._labelled: torch.Tensor | None = None

    def __enter__(self) -> LabelledLogits:
        self._handle = self._head.register_forward_pre_hook(self._thin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _thin(self, module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][self._labelled], *args[1:])

    def loss_sum(self, model: Any, rows: Rows) -> torch.Tensor:
        """Sum over labelled positions of the negative log-likelihood, in nats (float32 scalar).

        Raises:
            RuntimeError: the model did not put its hidden states through the output layer as [B, L, H], so the thinning
            did
                not engage; such an architecture is not supported.
        """
        labelled = rows.targets != IGNORED
        logits = self.packed_logits(model, rows)
        return torch.nn.functional.cross_entropy(logits.float(), rows.targets[labelled], reduction="sum")

    def packed_logits(self, model: Any, rows: Rows) -> torch.Tensor:
        """[n, V] at the n labelled positions of packed rows, row by row; raises as ``loss_sum``."""
        # Flash attention takes document borders from position_ids; the others need the mask, L*L bytes a row.
        mask = None if self._flash else document_mask(rows.position_ids)
        return self.logits(
            model,
            rows.targets != IGNORED,
            input_ids=rows.input_ids,
            attention_mask=mask,
            position_ids=rows.position_ids,
        )

    def logits(self, model: Any, labelled: torch.Tensor, **inputs: torch.Tensor | None) -> torch.Tensor:
        """[n, V] at the n positions where ``labelled`` (bool [B, L]) is true; raises as ``loss_sum``."""
        self._labelled = labelled
        count = int(labelled.sum())
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        if logits.shape[:-1] != (count,):
            raise RuntimeError(
                f"logits at labelled positions did not engage on {type(model).__name__}: "
                f"got {tuple(logits.shape)} for {count} labelled positions"
            )
        return logits
