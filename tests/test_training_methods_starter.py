"""Every built-in method on the real starter model and by the real data path, measured on rows it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from methods_support import run
from test_training_recovery import _sigterm_as_before  # noqa: F401 - a fixture
from training_support import store_in, tiny_spec

from ftplatform.cli.bases import STARTER_STEPS, starter_source
from ftplatform.core.digests import digest_bytes
from ftplatform.core.methods import BUILT_IN, method_options
from ftplatform.core.payload import TrainSpec
from ftplatform.core.recipe import LoraConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.data.tokens.shards import ShardWriter, layout_of
from ftplatform.data.tokens.tokenize import RowTokenizer
from ftplatform.training.starter import build_starter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LENGTH = 96
THINGS = ("headset", "laptop", "keyboard", "monitor", "printer", "phone", "router", "charger", "camera", "tablet")
QUEUES = {"money back": "billing", "new password": "account", "parcel tracked": "delivery"}


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of the laptop edition, as ``ft base add --starter`` makes it."""
    folder = tmp_path_factory.mktemp("starter")
    seed = starter_source()["seed"]
    build_starter(folder, seed=seed, steps=STARTER_STEPS, threads=1, progress=lambda step, steps, loss: None)
    return folder


def ask(number: int) -> tuple[Message, ...]:
    wish = list(QUEUES)[number % len(QUEUES)]
    return (Message("user", f"Order {number * 7919 % 10000}: I want my {wish} for the {THINGS[number % 10]}."),)


def answer(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


def chat(number: int) -> Row:
    return Row((*ask(number), *answer(list(QUEUES.values())[number % len(QUEUES)])), f"r:{number}")


def text(number: int) -> Row:
    thing, other = THINGS[number % 10], THINGS[number // 10 % 10]
    return Row(
        (),
        f"r:{number}",
        kind="text",
        text=f"The {thing} costs more than the {other}. Both of them are sold by number.",
    )


def preference(number: int) -> Row:
    kind, curt = (
        answer(f"Thank you for your message about the {THINGS[number % 10]}."),
        answer("No idea, ask somebody else."),
    )
    return Row(ask(number), f"r:{number}", kind="preference", chosen=kind, rejected=curt)


def labelled(number: int) -> Row:
    pair = preference(number // 2)
    said = pair.rejected if number % 2 else pair.chosen
    return Row((*pair.messages, *said), pair.source, kind="labelled", label=not number % 2)


def prompt(number: int) -> Row:
    return Row(ask(number), f"r:{number}", kind="prompt", extra={"wanted": "You would like your money back: a refund."})


def shard(base: Path, folder: Path, made: Callable[[int], Row], numbers: range) -> tuple[str, ...]:
    form, rows = load_chat_format(base), [made(number) for number in numbers]
    writer = ShardWriter(store_in(folder)[1], folder, layout_of({row.kind for row in rows}), LENGTH, form.pad_id)
    writer.add(RowTokenizer(form.tokenizer, form.template)(rows))
    return writer.close().files


ROWS = {"sft": chat, "text": text, "preference": preference, "kto": labelled, "prompts": prompt}


def spec_of(base: Path, folder: Path, method: str, options: dict[str, Any], **training: Any) -> TrainSpec:
    fields = {"batch_size": 8, "dropout": 0.0, "checkpoint_every": 1000, "max_length": LENGTH, **training}
    spec = tiny_spec(folder, digest_bytes(str(folder).encode()), **fields)
    made = ROWS[BUILT_IN[method].layouts[0]]
    return spec.model_copy(update={
        "base_weights": store_in(folder)[1].put_tree(base),
        "shards": {"train": shard(base, folder, made, range(240)), "validation": shard(base, folder, made, range(240, 270))},
        "max_length": LENGTH, "method": method, "options": method_options(method, options),
        "lora": LoraConfig(rank=8, alpha=16), "micro_batch": 8, "accumulation": 1,
    })  # fmt: skip


def untouched(spec: TrainSpec) -> TrainSpec:
    """One step that changes next to nothing: its evaluation is that of the starting model."""
    still = spec.training.model_copy(update={"learning_rate": 1e-12})
    return spec.model_copy(update={"key": digest_bytes(spec.key.encode()), "steps": 1, "training": still})


POLICY = {
    "rewards": [{"type": "text_similarity", "evaluation_metric": "rouge_1", "reference": "{{item.wanted}}"}],
    "group_size": 8,
    "max_new_tokens": 12,
}
LESSONS: dict[str, tuple[dict[str, Any], int, float, str, float]] = {
    # options, steps, learning rate, figure, and by how much it has to be better than the untouched model's
    "sft": ({}, 40, 5e-3, "eval_loss", -1.0),
    "cpt": ({}, 40, 5e-3, "eval_loss", -1.0),
    "dpo": ({}, 30, 5e-3, "eval_rewards/margins", 0.5),
    "orpo": ({"weight": 0.5}, 30, 5e-3, "eval_loss", -1.0),
    "kto": ({}, 30, 5e-3, "eval_loss", -0.1),
    "reward": ({}, 30, 5e-3, "eval_loss", -0.3),
    "grpo": (POLICY, 30, 5e-3, "eval_reward", 0.2),
    "rloo": (POLICY, 30, 5e-3, "eval_reward", 0.2),
    "distillation": ({"teacher": "taught@01234567"}, 40, 5e-3, "eval_kl", -0.5),
}


def test_there_is_a_lesson_for_every_method() -> None:
    assert LESSONS.keys() == BUILT_IN.keys()


@pytest.mark.parametrize("method", LESSONS)
def test_the_starter_learns_by_every_method(starter: Path, tmp_path: Path, method: str) -> None:
    options, steps, rate, figure, gain = LESSONS[method]
    spec = spec_of(starter, tmp_path, method, options, learning_rate=rate).model_copy(update={"steps": steps})
    if method == "distillation":
        teacher = spec_of(starter, tmp_path, "sft", {}, learning_rate=rate)
        taught = run(teacher.model_copy(update={"key": "c" * 64, "steps": 40, "parameterisation": "full"}), tmp_path, 3)
        spec = spec.model_copy(update={"teacher_weights": taught.artifacts["weights"]})
    before, after = run(untouched(spec), tmp_path, 1), run(spec, tmp_path, 2)
    assert (before.outcome, after.outcome) == ("done", "done")
    change = after.numbers[figure] - before.numbers[figure]
    told = f"{method}: {figure} {before.numbers[figure]:.4f} -> {after.numbers[figure]:.4f}"
    assert (change > gain) if gain > 0 else (change < gain), told
    assert after.numbers.get("eval_rewards/accuracies", 1.0) >= 0.9
