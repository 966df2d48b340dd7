"""Learning from pairs: DPO with its losses, and ORPO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from ftplatform.core.methods import DpoConfig
from ftplatform.training.flat_shards import read_flat
from ftplatform.training.logprobs import Batch, sequence_logprobs
from ftplatform.training.methods.base import Figures, TrainingMethod
from ftplatform.training.methods.flat import FlatExamples, starting_logprobs


def dpo_losses(
    options: DpoConfig, logprobs: torch.Tensor, counts: torch.Tensor, reference: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss per pair [B], and rewards [2, B] of chosen and rejected; the inputs are [2B], all chosen first.

    sigmoid: -log s(r_c - r_r) with r = beta log(pi / pi_ref) (arXiv:2305.18290, eq. 7), smoothed as in conservative DPO.
    ipo: (h - 1 / (2 beta))^2 with h the difference of log-ratios per token (arXiv:2310.12036, eq. 17; the mean over
    tokens is the authors' code's). simpo: r = beta log(pi) / length, -log s(r_c - r_r - gamma) (arXiv:2405.14734, eq. 6).
    """
    if options.loss == "simpo":
        rewards = (options.beta * logprobs / counts).reshape(2, -1)
        margin = rewards[0] - rewards[1] - options.gamma
    else:
        assert reference is not None
        ratios = logprobs - reference
        rewards = (options.beta * ratios).reshape(2, -1)
        if options.loss == "ipo":
            mean = (ratios / counts).reshape(2, -1)
            return (mean[0] - mean[1] - 1 / (2 * options.beta)) ** 2, rewards
        margin = rewards[0] - rewards[1]
    smooth = options.label_smoothing
    return -(1 - smooth) * logsigmoid(margin) - smooth * logsigmoid(-margin), rewards


def orpo_losses(weight: float, logprobs: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss per pair [B] and rewards [2, B]; the inputs are [2B], all chosen first.

    NLL of the chosen per token, minus ``weight`` * log s(log odds ratio), where odds = P / (1 - P) and P is the
    geometric mean of the tokens' probabilities (arXiv:2403.07691, eq. 3 to 7).
    """
    mean = (logprobs / counts).reshape(2, -1)
    # log(1 - e^m) without cancellation near 0; m = 0 would be a certain answer, whose odds are infinite.
    odds = mean - torch.log(-torch.expm1(mean.clamp(max=-1e-6)))
    return -mean[0] - weight * logsigmoid(odds[0] - odds[1]), weight * mean


class Pairs(TrainingMethod):
    def read(self, paths: Sequence[Path], vocabulary: int) -> FlatExamples:
        return FlatExamples(read_flat(paths, vocabulary, self.spec.max_length), 2)

    def losses(
        self, logprobs: torch.Tensor, counts: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss per pair [B] and rewards [2, B]."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        logprobs, counts = sequence_logprobs(model, batch)
        losses, rewards = self.losses(logprobs, counts, batch.get("reference"))
        figures.add("rewards/chosen", rewards[0])
        figures.add("rewards/rejected", rewards[1])
        figures.add("rewards/accuracies", (rewards[0] > rewards[1]).float())
        figures.add("rewards/margins", rewards[0] - rewards[1])
        figures.add("logps/chosen", logprobs.reshape(2, -1)[0])
        figures.add("logps/rejected", logprobs.reshape(2, -1)[1])
        return losses.sum()


class Dpo(Pairs):
    def begin(self, model: Any, splits: dict[str, FlatExamples]) -> None:
        if self.options.loss != "simpo":
            for name, examples in splits.items():
                examples.reference = starting_logprobs(self.work, model, examples, name)

    def losses(
        self, logprobs: torch.Tensor, counts: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return dpo_losses(self.options, logprobs, counts, reference)


class Orpo(Pairs):
    def losses(
        self, logprobs: torch.Tensor, counts: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return orpo_losses(self.options.weight, logprobs, counts)
