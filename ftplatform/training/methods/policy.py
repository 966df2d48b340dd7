"""GRPO and RLOO: the model answers prompts, graders reward the answers, better ones of a group become likelier.

One update per set of answers, so the importance ratio is 1 and nothing is clipped. PPO, with its value model, is not offered.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.training.flat_shards import FlatRows, padded, read_flat
from ftplatform.training.logprobs import Batch, labelled_of, token_logprobs
from ftplatform.training.methods.base import Figures, TrainingMethod, Work
from ftplatform.training.methods.flat import FlatExamples
from ftplatform.training.methods.grading import Answer, open_graders
from ftplatform.training.methods.sampling import answer, uniforms
from ftplatform.training.methods.splits import evaluating, micro_batches
from ftplatform.training.methods.starting import StartingWeights
from ftplatform.training.ranks import summed
from ftplatform.training.shards import IGNORED


class Prompts(FlatExamples):
    """Prompts as units; ``tokens`` counts a prompt once per answer, answers are counted while training."""

    def __init__(self, rows: FlatRows, group: int) -> None:
        super().__init__(rows, 1)
        self.tokens = self.tokens * group

    def collate(self, units: list[int]) -> Batch:
        return {"unit": torch.tensor(units)}


def grpo_advantages(rewards: torch.Tensor, scale: bool) -> torch.Tensor:
    """[prompts, group] -> reward minus the group's mean, over its standard deviation (arXiv:2402.03300, section 4.1.2)."""
    centered = rewards - rewards.mean(1, keepdim=True)
    return centered / (rewards.std(1, keepdim=True) + 1e-4) if scale else centered


def rloo_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """[prompts, group] -> reward minus the mean of the group's others (arXiv:2402.14740, eq. 7)."""
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def policy_losses(
    logprobs: torch.Tensor, advantages: torch.Tensor, reference: torch.Tensor | None, kl: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and divergence per token [n] (arXiv:2402.03300, eq. 3 and 4): -A pi/pi_old + kl (e^d - d - 1), d = log(ref/pi)."""
    loss = -(logprobs - logprobs.detach()).exp() * advantages
    if reference is None:
        return loss, torch.zeros_like(loss)
    apart = reference - logprobs
    divergence = apart.exp() - apart - 1
    return loss + kl * divergence, divergence


class Policy(TrainingMethod):
    """What GRPO and RLOO share: drawing, rewarding, and the batch made of it."""

    def __init__(self, work: Work, options: Any) -> None:
        super().__init__(work, options)
        self._text = load_chat_format(work.base)
        self._figures = Figures()

    def read(self, paths: Sequence[Path], vocabulary: int) -> Prompts:
        rows = read_flat(paths, vocabulary, self.spec.max_length, ("extra", "extra_offsets"))
        return Prompts(rows, self.options.group_size)

    def begin(self, model: Any, splits: dict[str, Prompts]) -> None:
        device, plain = next(model.parameters()).device, extract_model_from_parallel(model)
        vocabulary = plain.get_input_embeddings().num_embeddings
        self._reward = open_graders(self.options.rewards, self.work, device, vocabulary)
        self._start = StartingWeights(model) if self.options.kl else None

    @torch.no_grad()
    def prepare(self, model: Any, batches: list[Batch], examples: Prompts, step: int) -> list[Batch]:
        """Answers of the model as it is now, in place of the prompts: ``input_ids``, ``targets`` [S, L], ``advantages``
        and ``weights`` [S], and ``reference`` [n] of the labelled tokens where the loss needs it; S = prompts x group.
        """
        seen: Counter[int] = Counter()
        made = []
        for batch in batches:
            self.work.alive(f"answering the prompts of step {step + 1}")
            made.append(self._answered(model, batch["unit"].tolist(), examples, step, seen))
        tokens = summed(torch.tensor(sum(len(batch["labelled"]) for batch in made)))
        for batch in made:
            batch["weights"] = self._weights((batch["targets"] != IGNORED).sum(1), float(tokens))
        return made

    def _answered(self, model: Any, units: list[int], examples: Prompts, step: int, seen: Counter[int]) -> Batch:
        options, device = self.options, next(model.parameters()).device
        prompts, draws = [], []
        for unit in units:
            ids, _ = examples.rows.sequence(unit)
            for number in range(options.group_size):
                prompts.append(ids)
                draws.append(uniforms(options.max_new_tokens, self.spec.training.seed, step, unit, seen[unit], number))
            seen[unit] += 1
        answers = answer(
            extract_model_from_parallel(model), prompts, torch.stack(draws), temperature=options.temperature,
            stop_ids=self._text.stop_ids, pad_id=self._text.pad_id,
        )  # fmt: skip
        whole = [torch.cat([prompt, ids]) for prompt, ids in zip(prompts, answers, strict=True)]
        items = [examples.rows.extra(unit) for unit in units for _ in range(options.group_size)]
        texts = self._text.tokenizer.decode_batch([ids.tolist() for ids in answers], skip_special_tokens=True)
        given = self._reward([Answer(*parts) for parts in zip(texts, whole, items, strict=True)])
        rewards = torch.tensor(given, device=device).reshape(-1, options.group_size)
        learned = [torch.arange(len(ids)) >= len(prompt) for prompt, ids in zip(prompts, whole, strict=True)]
        batch = {name: value.to(device) for name, value in padded(list(zip(whole, learned, strict=True))).items()}
        self._note(rewards, answers)
        return self._credited(model, batch, rewards)

    def _note(self, rewards: torch.Tensor, answers: list[torch.Tensor]) -> None:
        spread = rewards.std(1)
        stopped = torch.tensor([int(ids[-1]) in self._text.stop_ids for ids in answers])
        self._figures.add("reward", rewards.flatten())
        self._figures.add("reward_std", spread)
        self._figures.add("frac_reward_zero_std", (spread == 0).float())
        self._figures.add("completions/mean_length", torch.tensor([float(len(ids)) for ids in answers]))
        self._figures.add("completions/clipped_ratio", (~stopped).float())

    def _starting(self, model: Any, batch: Batch) -> torch.Tensor:
        """Log-probabilities of the labelled tokens under the starting model: [n]."""
        assert self._start is not None
        with self._start.in_place():
            return self._evaluated(model, batch)

    def _evaluated(self, model: Any, batch: Batch) -> torch.Tensor:
        with evaluating(model):
            return token_logprobs(model, batch, self.options.temperature)[0]

    @abstractmethod
    def _credited(self, model: Any, batch: Batch, rewards: torch.Tensor) -> Batch:
        """The batch with ``advantages`` and, where the loss needs it, ``reference``."""

    @abstractmethod
    def _weights(self, lengths: torch.Tensor, tokens: float) -> torch.Tensor:
        """Per sequence, for each of its tokens; the trainer divides the sum by ``batch_size`` prompts."""

    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        logprobs, owner = token_logprobs(model, batch, self.options.temperature)
        reference = batch.get("reference")
        losses, divergence = policy_losses(logprobs, batch["advantages"][owner], reference, self.options.kl)
        if reference is not None:
            figures.add("kl", divergence)
        figures.merge(self._figures)
        return (losses * batch["weights"][owner]).sum()

    @torch.no_grad()
    def evaluate(self, model: Any, examples: Prompts, **given: torch.Tensor) -> dict[str, float]:
        """``eval_reward`` and the other figures of answers to a split's prompts, drawn as in training."""
        figures, size = Figures(), self.spec.micro_batch
        for units, batch in micro_batches(model, examples, size, self.work.alive, "answering prompts"):
            self.prepare(model, [batch], examples, self.spec.steps)
            figures.merge(self._figures, counted=bool(units))
        return {f"eval_{name}": value for name, value in figures.take().items()}


class Grpo(Policy):
    """Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300)."""

    def _credited(self, model: Any, batch: Batch, rewards: torch.Tensor) -> Batch:
        batch["advantages"] = grpo_advantages(rewards, self.options.scale_rewards).flatten()
        return batch | ({"reference": self._starting(model, batch)} if self._start else {})

    def _weights(self, lengths: torch.Tensor, tokens: float) -> torch.Tensor:
        group, batch_size = self.options.group_size, self.spec.training.batch_size
        if self.options.normalize == "sequence":
            return 1 / (group * lengths)
        each = 1 / (group * self.options.max_new_tokens) if self.options.normalize == "length" else batch_size / tokens
        return torch.full_like(lengths, each, dtype=torch.float32)


class Rloo(Policy):
    """REINFORCE with the other answers as baseline (Ahmadian et al. 2024, arXiv:2402.14740)."""

    def _credited(self, model: Any, batch: Batch, rewards: torch.Tensor) -> Batch:
        if self._start:
            mine, starting = self._evaluated(model, batch), self._starting(model, batch)
            zeros = torch.zeros(len(batch["targets"]), device=mine.device)
            kl = zeros.index_add(0, labelled_of(batch)[1], mine - starting)
            self._figures.add("kl", kl)
            rewards = rewards - self.options.kl * kl.reshape(rewards.shape)
        batch["advantages"] = rloo_advantages(rewards).flatten()
        return batch

    def _weights(self, lengths: torch.Tensor, tokens: float) -> torch.Tensor:
        return torch.full_like(lengths, 1 / self.options.group_size, dtype=torch.float32)
