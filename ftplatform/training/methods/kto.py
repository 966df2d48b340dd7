"""KTO: learning from answers that are each called good or bad (Ethayarajh et al. 2024, arXiv:2402.01306)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ftplatform.core.methods import KtoConfig
from ftplatform.training.flat_shards import FlatRows, padded, read_flat
from ftplatform.training.logprobs import Batch, sequence_logprobs
from ftplatform.training.methods.base import Figures, TrainingMethod
from ftplatform.training.methods.flat import FlatExamples, starting_logprobs
from ftplatform.training.methods.splits import evaluating, micro_batches
from ftplatform.training.ranks import summed


def kto_losses(
    options: KtoConfig, logprobs: torch.Tensor, reference: torch.Tensor, good: torch.Tensor, kl: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and reward per answer, [B] each (eq. 7 and 8): w (1 - s(beta (r - z))) for good ones, z - r for bad ones.

    r is the log-ratio to the starting model, z >= 0 (``kl``) the estimate of the divergence, through which no gradient
    flows.
    """
    ratios = logprobs - reference
    away = torch.where(good, ratios - kl, kl - ratios)
    weights = torch.where(good, options.desirable_weight, options.undesirable_weight)
    return weights * (1 - torch.sigmoid(options.beta * away)), options.beta * ratios


class Mismatched(FlatExamples):
    """Every prompt with the answer of the row after it: from them the divergence is estimated (section 4.1).

    The partner is fixed by the data, so the starting model's side is computed once, and neither the micro-batch nor the
    number of processes changes the estimate.
    """

    def __init__(self, rows: FlatRows, max_length: int) -> None:
        super().__init__(rows, 1)
        self._max_length = max_length

    def collate(self, units: list[int]) -> Batch:
        batch = padded([self._of(unit) for unit in units])
        return batch | ({} if self.reference is None else {"reference": self.reference[units, 0]})

    def _of(self, unit: int) -> tuple[torch.Tensor, torch.Tensor]:
        other = (unit + 1) % len(self.rows)
        prompt = self.rows.sequence(unit)[0][: int(self.rows.prompt_lengths[unit])]
        ids, learned = (part[int(self.rows.prompt_lengths[other]) :] for part in self.rows.sequence(other))
        whole = torch.cat([prompt, ids]), torch.cat([torch.zeros(len(prompt), dtype=torch.bool), learned])
        return whole[0][: self._max_length], whole[1][: self._max_length]


class KtoExamples(FlatExamples):
    def __init__(self, rows: FlatRows, max_length: int) -> None:
        super().__init__(rows, 1)
        self.mismatched = Mismatched(rows, max_length)

    def collate(self, units: list[int]) -> Batch:
        batch = super().collate(units)
        good = torch.tensor([self.rows.good(unit) for unit in units])
        batch |= {"good": good, "chosen": good.nonzero()[:, 0], "rejected": (~good).nonzero()[:, 0]}
        other = self.mismatched.collate(units)
        return batch | {f"other_{name}": value for name, value in other.items()}


class Kto(TrainingMethod):
    def read(self, paths: Sequence[Path], vocabulary: int) -> KtoExamples:
        rows = read_flat(paths, vocabulary, self.spec.max_length, ("labels",))
        return KtoExamples(rows, self.spec.max_length)

    def begin(self, model: Any, splits: dict[str, KtoExamples]) -> None:
        for name, examples in splits.items():
            own = starting_logprobs(self.work, model, examples, name)
            other = starting_logprobs(self.work, model, examples.mismatched, f"{name}-mismatched")
            examples.reference, examples.mismatched.reference = own, other

    @torch.no_grad()
    def prepare(self, model: Any, batches: list[Batch], examples: Any, step: int) -> list[Batch]:
        """Adds ``kl``: the mean over the whole effective batch of log(pi / pi_ref) of mismatched answers, at least 0."""
        if "kl" in batches[0]:  # that of the whole split, in an evaluation
            return batches
        with evaluating(model):
            ratios = [_ratios(model, batch, "other_") for batch in batches]
        kl = _divergence(torch.cat(ratios))
        return [batch | {"kl": kl} for batch in batches]

    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        logprobs, _ = sequence_logprobs(model, batch)
        losses, rewards = kto_losses(self.options, logprobs, batch["reference"], batch["good"], batch["kl"])
        for name in ("chosen", "rejected"):
            figures.add(f"rewards/{name}", rewards[batch[name]])
            figures.add(f"logps/{name}", logprobs[batch[name]])
        figures.add("kl", batch["kl"][None])
        return losses.sum()

    @torch.no_grad()
    def evaluate(self, model: Any, examples: KtoExamples, **given: torch.Tensor) -> dict[str, float]:
        """As of every method, with one ``kl`` of the whole split: of a micro-batch's own the loss would depend on its size."""
        ratios, other, size = [], examples.mismatched, self.spec.micro_batch
        with evaluating(model):
            for units, batch in micro_batches(model, other, size, self.work.alive, "estimating the divergence"):
                ratios.append(_ratios(model, batch)[: len(units)])
        found: dict[str, float] = super().evaluate(model, examples, kl=_divergence(torch.cat(ratios)), **given)
        return found


def _ratios(model: Any, batch: Batch, prefix: str = "") -> torch.Tensor:
    """log(pi / pi_ref) per answer, [B]; ``prefix`` is that of its names in the batch."""
    own = {name: batch[f"{prefix}{name}"] for name in ("input_ids", "targets", "labelled")}
    return sequence_logprobs(model, own)[0] - batch[f"{prefix}reference"]


def _divergence(ratios: torch.Tensor) -> torch.Tensor:
    """Their mean over all processes, at least 0."""
    total = summed(torch.stack([ratios.sum(), ratios.new_full((), len(ratios))]))
    return (total[0] / total[1]).clamp(min=0)
