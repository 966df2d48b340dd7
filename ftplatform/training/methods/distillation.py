"""Learning the whole next-token distribution of a teacher, at the positions that carry loss."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.methods import DistillationConfig
from ftplatform.training.logprobs import Batch
from ftplatform.training.loss import CHUNK, LabelledLogits, in_chunks, nll_sum
from ftplatform.training.methods.base import Figures
from ftplatform.training.methods.tokens import PackedMethod, packed
from ftplatform.training.model import load_base

_POSITIONS = CHUNK // 4
"""Positions whose distributions are compared at once: that takes about thirty bytes per logit, a loss by itself eight."""


def divergence(options: DistillationConfig, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL per position [n] from logits [n, V], in nats at temperature T, times T^2.

    T^2 keeps gradients of one size whatever T (Hinton et al. 2015, arXiv:1503.02531, section 2).
    """
    ours = (student.float() / options.temperature).log_softmax(-1)
    theirs = (teacher.float() / options.temperature).log_softmax(-1)
    first, second = (theirs, ours) if options.divergence == "forward" else (ours, theirs)
    return (first.exp() * (first - second)).sum(-1) * options.temperature**2


class Distillation(PackedMethod):
    """Loss per labelled token: (1 - hard_labels) * KL + hard_labels * next-token loss."""

    def begin(self, model: Any, splits: dict[str, Any]) -> None:
        assert self.spec.teacher_weights is not None
        folder = self.work.store.fetch_tree(self.spec.teacher_weights, self.work.folder / "teacher")
        ours, theirs = self.work.base / "tokenizer.json", folder / "tokenizer.json"
        self._teacher = load_base(folder, precision=self.spec.training.precision).eval().requires_grad_(False)
        self._teacher.to(next(model.parameters()).device)
        sizes = [
            one.get_input_embeddings().num_embeddings for one in (extract_model_from_parallel(model), self._teacher)
        ]
        same = not ours.is_file() or (theirs.is_file() and ours.read_bytes() == theirs.read_bytes())
        if sizes[0] != sizes[1] or not same:
            raise InvalidConfig(
                f"the teacher {self.spec.teacher_weights[:12]} has {sizes[1]} tokens, the student {sizes[0]}, and their "
                f"tokenizers are {'the same' if same else 'different'}: accepted is a teacher with the student's "
                "tokenizer. Choose another teacher; a retry does not help"
            )

    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        rows, labelled = packed(batch), batch["labelled"]
        targets = rows.targets.flatten().index_select(0, labelled)
        with LabelledLogits(extract_model_from_parallel(model)) as thinned:
            student = thinned.packed(model, rows, labelled)
        with torch.no_grad(), LabelledLogits(self._teacher) as thinned:
            teacher = thinned.packed(self._teacher, rows, labelled)
        # Of both models only the logits of one chunk exist at a time.
        parts = in_chunks(self._apart, [student, teacher], targets, size=_POSITIONS)
        kl = torch.cat([part for part, _ in parts])
        figures.add("kl", kl / self.options.temperature**2)
        loss = (1 - self.options.hard_labels) * kl.sum()
        if self.options.hard_labels:
            loss = loss + self.options.hard_labels * torch.stack([nll for _, nll in parts]).sum()
        return loss

    def _apart(
        self, student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The divergence per position [n], and where hard labels count the sum of their negative log-likelihoods."""
        nll = nll_sum(student, targets) if self.options.hard_labels else None
        return divergence(self.options, student, teacher), nll
