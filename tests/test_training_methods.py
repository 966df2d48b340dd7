"""Every training method on a model of seconds: what it learns is seen on examples it was not trained on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from methods_support import BAD, GOOD, flat, kto, method_spec, pairs, prompts, records, run
from training_support import LENGTH, VOCABULARY, store_in

from ftplatform.core.errors import DataRefused, InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.training.methods.reward import ScoreAtEnd, load_reward_model


@pytest.fixture(autouse=True)
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def preference_spec(folder: Path, method: str, options: dict[str, object], **fields: object) -> TrainSpec:
    splits = {"train": flat(pairs(32, 0)), "validation": flat(pairs(12, 1))}
    return method_spec(folder, method, splits, options, **{"steps": 24, "learning_rate": 5e-2, **fields})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"loss": "sigmoid", "label_smoothing": 0.1}, "lora"),
        ({"loss": "sigmoid"}, "full"),
        ({"loss": "ipo"}, "lora"),
        ({"loss": "simpo", "beta": 2.0}, "lora"),
    ],
)
def test_dpo_learns_to_prefer_the_chosen_answers_of_pairs_it_has_not_seen(
    tmp_path: Path, options: dict[str, object], kind: str
) -> None:
    spec = preference_spec(tmp_path, "dpo", options, kind=kind, learning_rate=3e-2 if kind == "lora" else 1e-2)
    result = run(spec, tmp_path)
    assert result.outcome == "done", result.message
    steps = records(tmp_path, result)
    assert result.numbers["eval_rewards/accuracies"] >= 0.9
    margin = 0.05 if options["loss"] != "simpo" else steps[0]["rewards/margins"]
    assert result.numbers["eval_rewards/margins"] > margin
    assert {"rewards/chosen", "rewards/rejected", "logps/chosen"} <= set(steps[-1])
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert bool(store_in(tmp_path)[1].list_docs("references")) == (options["loss"] != "simpo")


def test_orpo_learns_to_prefer_and_to_say_the_chosen_answers(tmp_path: Path) -> None:
    result = run(preference_spec(tmp_path, "orpo", {"weight": 0.5}, kind="full", learning_rate=1e-2), tmp_path)
    steps = records(tmp_path, result)
    assert result.numbers["eval_rewards/accuracies"] >= 0.9
    assert steps[-1]["logps/chosen"] > steps[0]["logps/chosen"]
    assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"]


def test_kto_parts_good_answers_from_bad_ones(tmp_path: Path) -> None:
    splits = {"train": kto(32, 0), "validation": kto(8, 1)}
    result = run(method_spec(tmp_path, "kto", splits, steps=24, learning_rate=1e-2, kind="full"), tmp_path)
    steps = records(tmp_path, result)
    assert result.numbers["eval_rewards/chosen"] - result.numbers["eval_rewards/rejected"] > 0.2
    assert all(step["kl"] >= 0 for step in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_reward_model_ranks_unseen_answers_and_loads_with_its_head(tmp_path: Path, kind: str) -> None:
    spec = preference_spec(tmp_path, "reward", {"center": 0.01}, kind=kind, learning_rate=1e-2)
    result = run(spec, tmp_path)
    assert result.numbers["eval_rewards/accuracies"] > 0.8
    store = store_in(tmp_path)[1]
    weights = store.fetch_tree(result.artifacts["weights"], tmp_path / "weights")
    model = load_reward_model(store.fetch_tree(spec.base_weights, tmp_path / "again"), weights, kind)
    proof = store.get_json(result.artifacts["fingerprint"])
    ids = torch.tensor([[30, 31, *GOOD[:4], 1], [30, 31, *BAD[:4], 1]])
    with torch.no_grad(), ScoreAtEnd(model) as head:
        good, bad = head.score(model, ids, torch.tensor([7, 7])).tolist()
        again = float(head.score(model, torch.tensor([proof["prompt_ids"]]), torch.tensor([len(proof["prompt_ids"])])))
    assert good > bad
    assert again == pytest.approx(proof["score"], abs=1e-5)


GRADERS = [
    {"type": "text_similarity", "evaluation_metric": "rouge_1", "reference": "{{item.answer}}", "weight": 2.0},
    {"type": "string_check", "operation": "like", "reference": "w5"},
]


@pytest.mark.parametrize(
    ("method", "options"), [("grpo", {}), ("grpo", {"kl": 0.01, "normalize": "sequence"}), ("rloo", {"kl": 0.01})]
)
def test_a_policy_earns_more_reward_the_longer_it_learns(
    tmp_path: Path, method: str, options: dict[str, object]
) -> None:
    extra = {"answer": "w5 w5 w5"}
    splits = {"train": prompts(16, 0, extra), "validation": prompts(4, 1, extra)}
    wanted = {"rewards": GRADERS, "group_size": 8, "max_new_tokens": 4, **options}
    result = run(method_spec(tmp_path, method, splits, wanted, steps=30, learning_rate=2e-2, kind="full"), tmp_path)
    assert result.outcome == "done", result.message
    steps = records(tmp_path, result)
    first, last = (sum(step["reward"] for step in part) / 5 for part in (steps[:5], steps[-5:]))
    assert last > first + 0.5
    assert result.numbers["eval_reward"] > first + 0.5
    assert {"reward_std", "completions/mean_length", "completions/clipped_ratio"} <= set(steps[0])
    assert ("kl" in steps[0]) == bool(options.get("kl"))


def test_a_policy_learns_what_a_trained_reward_model_likes(tmp_path: Path) -> None:
    judge = preference_spec(tmp_path / "judge", "reward", {}, kind="lora")
    trained = run(judge, tmp_path / "judge")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "store").symlink_to(tmp_path / "judge" / "store")
    grader = {"type": "reward_model", "weights": trained.artifacts["weights"], "base_weights": judge.base_weights}
    options = {"rewards": [grader], "group_size": 8, "max_new_tokens": 5}
    splits = {"train": prompts(16, 0, {})}
    spec = method_spec(tmp_path / "policy", "rloo", splits, options, steps=20, learning_rate=2e-2, kind="full")
    steps = records(tmp_path / "policy", run(spec, tmp_path / "policy"))
    assert sum(step["reward"] for step in steps[-4:]) > sum(step["reward"] for step in steps[:4]) + 1.0


def test_continued_pre_training_lowers_the_loss_of_text_it_has_not_seen(tmp_path: Path) -> None:
    def text(rows: int, seed: int) -> dict[str, torch.Tensor]:
        start = torch.randint(0, 20, (rows, 1), generator=torch.Generator().manual_seed(seed))
        ids = 2 + (start + torch.arange(LENGTH)) % 20
        positions = torch.arange(LENGTH).expand(rows, LENGTH)
        tensors = {"input_ids": ids, "labels": ids, "position_ids": positions}
        return {name: value.to(torch.int32).contiguous() for name, value in tensors.items()}

    splits = {"train": text(24, 0), "validation": text(8, 1)}
    result = run(method_spec(tmp_path, "cpt", splits, steps=25, learning_rate=1e-2, kind="full"), tmp_path)
    steps = records(tmp_path, result)
    assert result.numbers["eval_loss"] < 1.0 < steps[0]["loss"]
    assert result.numbers["supervised_tokens"] == 25 * 4 * (LENGTH - 1)


@pytest.mark.parametrize("options", [{}, {"divergence": "reverse", "temperature": 2.0, "hard_labels": 0.1}])
def test_a_distilled_model_comes_closer_to_its_teacher(tmp_path: Path, options: dict[str, object]) -> None:
    teacher = method_spec(tmp_path / "teacher", "sft", None, kind="full", steps=15, learning_rate=1e-2)
    taught = run(teacher, tmp_path / "teacher").artifacts["weights"]
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "store").symlink_to(tmp_path / "teacher" / "store")
    options = {"teacher": "big@01234567", **options}
    spec = method_spec(tmp_path / "student", "distillation", None, options, kind="full", steps=20, learning_rate=1e-2)
    steps = records(
        tmp_path / "student", run(spec.model_copy(update={"teacher_weights": taught}), tmp_path / "student")
    )
    assert steps[-1]["kl"] < 0.7 * steps[0]["kl"]
    assert 0 < steps[-1]["eval_kl"] < steps[0]["kl"]


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    spec = method_spec(tmp_path, "distillation", None, {"teacher": "big@01234567"})
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    teacher = store_in(tmp_path)[1].put_tree(tmp_path / "base")
    with pytest.raises(InvalidConfig, match="tokenizers are different"):
        run(spec.model_copy(update={"teacher_weights": teacher}), tmp_path)


def test_shards_of_another_layout_are_refused_by_what_they_lack(tmp_path: Path) -> None:
    spec = method_spec(tmp_path, "kto", {"train": flat(pairs(4, 0))})
    with pytest.raises(DataRefused, match="lacks labels: accepted for this method"):
        run(spec, tmp_path)
    too_long = flat([([5] * LENGTH, [1]), ([5], [1])])
    with pytest.raises(DataRefused, match=f"accepted are sequences of 1 to {LENGTH} tokens"):
        run(method_spec(tmp_path / "b", "dpo", {"train": too_long}), tmp_path / "b")
    foreign = flat([([VOCABULARY], [1]), ([5], [1])])
    with pytest.raises(DataRefused, match="another tokenizer"):
        run(method_spec(tmp_path / "c", "orpo", {"train": foreign}), tmp_path / "c")
