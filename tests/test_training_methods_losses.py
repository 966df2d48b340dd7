"""The losses are those of the papers, computed here token by token, and those of TRL on the same batch."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from methods_support import flat, kto, method_spec, pairs, with_text
from torch.nn.functional import logsigmoid
from training_support import VOCABULARY, store_in, tiny_base
from transformers import PreTrainedTokenizerFast

from ftplatform.core.methods import DistillationConfig, DpoConfig, KtoConfig
from ftplatform.training.logprobs import sequence_logprobs, token_logprobs
from ftplatform.training.methods.base import Figures, Work, open_method
from ftplatform.training.methods.distillation import divergence
from ftplatform.training.methods.kto import kto_losses
from ftplatform.training.methods.policy import grpo_advantages, policy_losses, rloo_advantages
from ftplatform.training.methods.preference import dpo_losses, orpo_losses
from ftplatform.training.methods.reward import ScoreAtEnd, _classifier
from ftplatform.training.model import load_base

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
OFF: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "report_to": "none"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("losses")
    tiny_base(store_in(folder)[1], folder)
    with_text(folder / "base")
    torch.manual_seed(3)
    model = load_base(folder / "base")
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder / "other")
    return folder


def examples(place: Path, method: str, tensors: dict[str, torch.Tensor], name: str) -> Any:
    spec = method_spec(place / name, method, {"train": tensors})
    store = store_in(place / name)[1]
    work = Work(spec, store, place / "base", place / name, lambda message: None)
    return open_method(work).read([store.path(spec.shards["train"][0])], VOCABULARY)


def naive(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> list[list[float]]:
    """log P of every labelled token, one sequence at a time, from the whole softmax."""
    found = []
    with torch.no_grad():
        for row, wanted in zip(ids, targets, strict=True):
            scores = model(input_ids=row[None]).logits[0].double().log_softmax(-1)
            found.append([float(scores[t, w]) for t, w in enumerate(wanted.tolist()) if w >= 0])
    return found


def batch_of(place: Path, name: str, method: str = "dpo", count: int = 4) -> dict[str, torch.Tensor]:
    tensors = kto(count, 7) if method == "kto" else flat(pairs(count, 7))
    batch: dict[str, torch.Tensor] = examples(place, method, tensors, name).collate(list(range(count)))
    return batch


def tokenizer(place: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(place / "base" / "tokenizer.json"), eos_token="<stop>", pad_token="<pad>"
    )


def test_log_probabilities_of_answers_are_those_computed_token_by_token(place: Path) -> None:
    model, batch = load_base(place / "base"), batch_of(place, "naive")
    sums, counts = sequence_logprobs(model, batch)
    expected = naive(model, batch["input_ids"], batch["targets"])
    assert counts.tolist() == [len(row) for row in expected]
    assert sums.tolist() == pytest.approx([sum(row) for row in expected], abs=1e-4)
    warm = token_logprobs(model, batch, 2.0)[0]
    scores = (model(input_ids=batch["input_ids"]).logits / 2).log_softmax(-1)
    labelled = batch["targets"] >= 0
    assert torch.allclose(warm, scores[labelled].gather(1, batch["targets"][labelled][:, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("ipo", 0.0), ("robust", 0.0)])
def test_dpo_and_ipo_are_trls(place: Path, tmp_path: Path, loss: str, smoothing: float) -> None:
    from trl import DPOConfig as TrlConfig
    from trl import DPOTrainer

    policy, reference = load_base(place / "other"), load_base(place / "base")
    batch = batch_of(place, f"dpo-{loss}")
    with torch.no_grad():
        started = sequence_logprobs(reference, batch)[0]
        logprobs, counts = sequence_logprobs(policy, batch)
    options = DpoConfig(loss="sigmoid" if loss == "robust" else loss, beta=0.3)  # type: ignore[arg-type]
    ours, _ = dpo_losses(options, logprobs, counts, started)
    rows = Dataset.from_list([{"prompt": "w30", "chosen": " w2", "rejected": " w3"}] * 2)
    config = TrlConfig(output_dir=str(tmp_path), beta=0.3, loss_type=[loss], **OFF)
    trainer = DPOTrainer(policy, reference, config, train_dataset=rows, processing_class=tokenizer(place))
    mask = torch.zeros_like(batch["input_ids"])
    mask[:, 1:] = (batch["targets"][:, :-1] >= 0).long()
    inside = torch.arange(mask.shape[1])[None] < batch["lengths"][:, None]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": inside.long(), "completion_mask": mask}
    with torch.no_grad():
        theirs = trainer.compute_loss(policy.eval(), inputs)
    assert float(ours.mean()) == pytest.approx(float(theirs), abs=1e-4)


def test_the_preference_losses_are_the_papers_formulas(place: Path) -> None:
    model, other, batch = load_base(place / "other"), load_base(place / "base"), batch_of(place, "formulas")
    with torch.no_grad():
        logprobs, counts = sequence_logprobs(model, batch)
        reference, _ = sequence_logprobs(other, batch)
    mine = naive(model, batch["input_ids"], batch["targets"])
    base = naive(other, batch["input_ids"], batch["targets"])
    smooth, simpo, orpo = [], [], []
    for c in range(4):
        r = c + 4
        margin = torch.tensor(0.2 * (sum(mine[c]) - sum(base[c]) - sum(mine[r]) + sum(base[r])))
        smooth.append(float(-0.9 * logsigmoid(margin) - 0.1 * logsigmoid(-margin)))
        means = [torch.tensor(sum(mine[one]) / len(mine[one])) for one in (c, r)]
        simpo.append(float(-logsigmoid(2 * (means[0] - means[1]) - 0.7)))
        odds = [torch.log(one.exp() / (1 - one.exp())) for one in means]
        orpo.append(float(-means[0] - 0.25 * logsigmoid(odds[0] - odds[1])))
    found = dpo_losses(DpoConfig(beta=0.2, label_smoothing=0.1), logprobs, counts, reference)[0]
    assert found.tolist() == pytest.approx(smooth, abs=1e-4)
    found = dpo_losses(DpoConfig(loss="simpo", beta=2.0, gamma=0.7), logprobs, counts, None)[0]
    assert found.tolist() == pytest.approx(simpo, abs=1e-4)
    assert orpo_losses(0.25, logprobs, counts)[0].tolist() == pytest.approx(orpo, abs=1e-4)


def test_simpo_and_the_odds_ratio_are_trls() -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    means = -torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) - 0.1
    fake = SimpleNamespace(
        alpha=0.0, beta=2.0, simpo_gamma=0.7, loss_type="simpo", label_smoothing=0.1,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    theirs = CPOTrainer.cpo_loss(fake, *means)[0]
    options = DpoConfig(loss="simpo", beta=2.0, gamma=0.7, label_smoothing=0.1)
    ours = dpo_losses(options, means.flatten() * 5, torch.full((12,), 5.0), None)[0]
    assert torch.allclose(ours, theirs, atol=1e-4)
    theirs = -means[0] - ORPOTrainer.odds_ratio_loss(fake, *means)[0]
    assert torch.allclose(orpo_losses(2.0, means.flatten() * 5, torch.full((12,), 5.0))[0], theirs, atol=1e-4)


def test_kto_is_trls(place: Path, tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    policy, reference = load_base(place / "base"), load_base(place / "other")
    rows = examples(place, "kto", kto(4, 7), "kto")
    batch = rows.collate(list(range(8)))
    other = rows.mismatched.collate(list(range(8)))
    with torch.no_grad():
        ratios = sequence_logprobs(policy, other)[0] - sequence_logprobs(reference, other)[0]
        logprobs, started = sequence_logprobs(policy, batch)[0], sequence_logprobs(reference, batch)[0]
    options = KtoConfig(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    ours, _ = kto_losses(options, logprobs, started, batch["good"], ratios.mean().clamp(min=0))
    texts = Dataset.from_list([{"prompt": f"w3{n}", "completion": f" w{n + 2}", "label": n % 2 == 0} for n in range(4)])
    config = KTOConfig(output_dir=str(tmp_path), beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, **OFF)
    trainer = KTOTrainer(policy, reference, config, train_dataset=texts, processing_class=tokenizer(place))

    def trls(one: dict[str, torch.Tensor], before: str = "") -> dict[str, torch.Tensor]:
        mask = torch.zeros_like(one["input_ids"])
        mask[:, 1:] = (one["targets"][:, :-1] >= 0).long()
        inside = torch.arange(mask.shape[1])[None] < one["lengths"][:, None]
        return {
            f"{before}input_ids": one["input_ids"],
            f"{before}attention_mask": inside.long(),
            f"{before}completion_mask": mask,
        }

    inputs = {**trls(batch), **trls(other, "KL_"), "label": batch["good"]}
    with torch.no_grad():
        theirs = trainer.compute_loss(policy.eval(), inputs)
    assert float(ours.mean()) == pytest.approx(float(theirs), abs=1e-4)


def test_the_reward_model_scores_the_last_token_whatever_the_padding(place: Path) -> None:
    torch.manual_seed(0)
    model = _classifier(place / "base").eval()
    batch = batch_of(place, "reward", "reward")
    with torch.no_grad(), ScoreAtEnd(model) as head:
        scores = head.score(model, batch["input_ids"], batch["lengths"])
        for ids, length, score in zip(batch["input_ids"], batch["lengths"].tolist(), scores.tolist(), strict=True):
            alone = model.score(model.model(input_ids=ids[None, :length]).last_hidden_state)[0, -1, 0]
            assert score == pytest.approx(float(alone), abs=1e-5)


@pytest.mark.parametrize("normalize", ["sequence", "batch", "length"])
def test_grpo_is_trls(place: Path, tmp_path: Path, normalize: str) -> None:
    from trl import GRPOConfig, GRPOTrainer

    policy, reference = load_base(place / "other"), load_base(place / "base")
    batch = batch_of(place, f"grpo-{normalize}")
    rewards = torch.rand(2, 4, generator=torch.Generator().manual_seed(2))
    advantages = grpo_advantages(rewards, scale=True).flatten()
    options = {"rewards": [{"type": "python", "name": "x"}], "group_size": 4, "max_new_tokens": 9, "kl": 0.2}
    spec = method_spec(place / f"g-{normalize}", "grpo", {}, {**options, "normalize": normalize})
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"batch_size": 2})})
    work = Work(spec, store_in(tmp_path)[1], place / "base", tmp_path, lambda message: None)
    lengths = (batch["targets"] >= 0).sum(1)
    with torch.no_grad():
        batch |= {
            "advantages": advantages,
            "weights": open_method(work)._weights(lengths, float(lengths.sum())),  # type: ignore[attr-defined]
            "reference": token_logprobs(reference, batch)[0],
        }
        ours = float(open_method(work).loss(policy, batch, Figures())) / 2
    kind = {"sequence": "grpo", "batch": "dapo", "length": "dr_grpo"}[normalize]
    config = GRPOConfig(
        output_dir=str(tmp_path / "trl"), loss_type=kind, beta=0.2, num_generations=4, max_completion_length=9,
        per_device_train_batch_size=8, **OFF,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "w30"}] * 8)
    trainer = GRPOTrainer(
        policy, lambda completions, **rest: [0.0] * len(completions), config, rows, processing_class=tokenizer(place)
    )
    trainer.current_gradient_accumulation_steps = 1
    # TRL keeps prompts and completions apart; here the prompt is the first four tokens of every sequence.
    width = batch["input_ids"].shape[1]
    mask = (torch.arange(width)[None] < batch["lengths"][:, None]).long()
    dense = torch.zeros(8, width - 4)
    dense[(batch["targets"] >= 0)[:, 3:-1]] = batch["reference"]
    inputs = {
        "prompt_ids": batch["input_ids"][:, :4], "prompt_mask": mask[:, :4], "completion_ids": batch["input_ids"][:, 4:],
        "completion_mask": mask[:, 4:], "advantages": advantages, "ref_per_token_logps": dense,
        "num_items_in_batch": mask[:, 4:].sum(),
    }  # fmt: skip
    with torch.no_grad():
        theirs = float(trainer._compute_loss(policy.train(), inputs))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_advantages_compare_an_answer_with_its_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert torch.allclose(grpo_advantages(rewards, scale=False), torch.tensor([[0.5, -0.5, -0.5, 0.5], [0.0] * 4]))
    assert torch.allclose(
        grpo_advantages(rewards, scale=True)[0], torch.tensor([1, -1, -1, 1]) * 0.5 / 0.57745, atol=1e-3
    )
    assert torch.allclose(rloo_advantages(rewards)[0], torch.tensor([1 - 1 / 3, -2 / 3, -2 / 3, 1 - 1 / 3]))
    loss, kl = policy_losses(torch.tensor([-1.0]), torch.tensor([2.0]), torch.tensor([-1.5]), 0.5)
    assert float(kl) == pytest.approx(torch.tensor(-0.5).exp().item() + 0.5 - 1)
    assert float(loss) == pytest.approx(-2.0 + 0.5 * float(kl))


@pytest.mark.parametrize(("kind", "beta"), [("forward", 0.0), ("reverse", 1.0)])
def test_the_divergence_from_the_teacher_is_trls(kind: str, beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = torch.randn(2, 7, VOCABULARY, generator=torch.Generator().manual_seed(4))
    options = DistillationConfig(divergence=kind, temperature=2.0)  # type: ignore[arg-type]
    theirs = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], torch.zeros(1, 7, dtype=torch.int64), beta=beta, temperature=2.0
    )
    assert float(divergence(options, student, teacher).mean()) / 4 == pytest.approx(float(theirs), abs=1e-4)
