"""Reward models: a score for a whole answer, learned from pairs (Bradley and Terry 1952; arXiv:2203.02155, eq. 1).

Stored as the ecosystem stores them: Hugging Face's ``AutoModelForSequenceClassification`` with one label. Full weights are
such a model folder; with LoRA the PEFT adapter folder (task type SEQ_CLS) holds the head ``score`` beside the adapters.
``load_reward_model`` opens both.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel, get_peft_model
from torch.nn.functional import linear, logsigmoid
from transformers import AutoModelForSequenceClassification

from ftplatform.core.errors import InvalidConfig
from ftplatform.training.adapters import freeze, peft_config
from ftplatform.training.logprobs import Batch
from ftplatform.training.methods.base import Figures
from ftplatform.training.methods.preference import Pairs
from ftplatform.training.model import check_engaged, load_as
from ftplatform.training.stored import WIDENS, compute_in_fp32, stays_stored, widen

HEAD = "score"


class ScoreAtEnd:
    """While entered, ``score`` gives a model's score of every sequence at its last token, not at a padding token.

    Hugging Face looks for the last token that is not the pad token, which is one too early where the stop token pads.
    """

    def __init__(self, model: Any) -> None:
        self._head = _head(model)

    def __enter__(self) -> ScoreAtEnd:
        self._handle = self._head.register_forward_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _keep(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        self._scores = output[..., 0]

    def score(self, model: Any, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """float32 [S] of ``input_ids`` [S, L], padded on the right, ``lengths`` [S] tokens long."""
        model(input_ids=input_ids, attention_mask=None, use_cache=False)
        rows = torch.arange(len(lengths), device=lengths.device)
        return self._scores[rows, lengths - 1].float()


def _head(model: Any) -> torch.nn.Linear:
    # PEFT keeps the untrained head under ``original_module``; the trained one comes last.
    heads = [module for name, module in model.named_modules() if name.rpartition(".")[2] in (HEAD, "default")
             and isinstance(module, torch.nn.Linear) and module.out_features == 1]  # fmt: skip
    return heads[-1]


def score_in_fp32(model: Any) -> Any:
    """Make the head of ``model`` compute in fp32 whatever the rest does, in place; returns ``model``.

    Scores of a pair lie close together, and bf16 tells 0.03 apart at a size of 8: ties and order would be rounding. It
    costs an fp32 copy of the last hidden states, 4 bytes x tokens x hidden size, until the backward pass.
    """
    head = _head(model)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        # FSDP2 and DeepSpeed hand a bf16 copy of the weight in: the products are fp32 ones there too.
        with torch.autocast(hidden.device.type, enabled=False):
            return linear(hidden.float(), head.weight.float(), None if head.bias is None else head.bias.float())

    head.forward = forward
    return model


def _classifier(folder: Path, **config: Any) -> Any:
    model = load_as(AutoModelForSequenceClassification, folder, num_labels=1, **config)
    if model.config.pad_token_id is None:
        # Which one does not matter here (see ScoreAtEnd), but without one the library refuses a batch.
        model.config.pad_token_id = 0
    return model


def load_reward_model(base: Path, weights: Path, kind: str, *, stored: bool = False) -> Any:
    """A trained reward model in eval mode, in fp32: ``kind`` full is ``weights`` alone, lora the adapter on ``base``.

    With ``stored`` it stays on its device and computes in fp32 on weights mapped from the files (``stored``).
    """
    model = _classifier(weights if kind == "full" else base, stored=stored)
    if stored:
        compute_in_fp32(model)
    return (model if kind == "full" else PeftModel.from_pretrained(model, str(weights))).eval()


class RewardModel(Pairs):
    """Loss: -log s(chosen - rejected) + center * (chosen + rejected)^2."""

    def model(self) -> Any:
        spec, training = self.spec, self.spec.training
        kind = spec.parameterisation
        if kind not in ("full", "lora") or training.quantization != "none" or spec.lora.init_lora_weights == "pissa":
            raise InvalidConfig(
                f"a reward model cannot be trained with {kind}, quantization {training.quantization} and LoRA weights "
                f"{spec.lora.init_lora_weights}: accepted are full and lora, not quantized, without pissa"
            )
        if training.precision == "bf16" and not torch.cuda.is_available():
            raise InvalidConfig(
                "precision bf16 was asked for and no CUDA device is here; the plan must say fp32 for a CPU"
            )
        if kind == "full":
            stored = stays_stored(spec)
            model = _classifier(self.work.base, stored=stored, attention_dropout=training.dropout)
            setattr(model, WIDENS, stored)
            freeze(model, training)
            return score_in_fp32(model)
        config = peft_config(kind, spec.lora, training)
        # PEFT then trains the head whole and saves it with the adapter.
        config.task_type = "SEQ_CLS"
        model = get_peft_model(_classifier(self.work.base, precision=training.precision), config)
        # PEFT gives its own matrices fp32 and leaves the head in the type of the base: in bf16 an update of a thousandth of
        # a weight is lost, and Adam's second moment, which keeps 0.999 of itself a step, never falls.
        widen(module for module in model.modules() if any(p.requires_grad for p in module.parameters(recurse=False)))
        check_engaged(model, spec)
        if not any(p.requires_grad for name, p in model.named_parameters() if f"{HEAD}." in name):
            raise InvalidConfig(
                f"the head {HEAD!r} of {type(model.get_base_model()).__name__} is not trained with LoRA"
            )
        return score_in_fp32(model)

    def loss(self, model: Any, batch: Batch, figures: Figures) -> torch.Tensor:
        with ScoreAtEnd(extract_model_from_parallel(model)) as head:
            scores = head.score(model, batch["input_ids"], batch["lengths"]).reshape(2, -1)
        chosen, rejected = scores
        figures.add("rewards/chosen", chosen)
        figures.add("rewards/rejected", rejected)
        figures.add("rewards/accuracies", (chosen > rejected).float())
        figures.add("rewards/margins", chosen - rejected)
        losses = -logsigmoid(chosen - rejected) + self.options.center * (chosen + rejected) ** 2
        return losses.sum()

    @torch.no_grad()
    def prove(self, weights: Path, examples: Any) -> dict[str, Any]:
        """``prompt_ids`` and their ``score``; a reward model answers nothing."""
        ids = examples.probe()
        model = load_reward_model(self.work.base, weights, self.spec.parameterisation, stored=True)
        with ScoreAtEnd(model) as head:
            score = head.score(model, torch.tensor([ids]), torch.tensor([len(ids)]))
        return {"prompt_ids": ids, "token_ids": [], "logprobs": [], "score": float(score)}
