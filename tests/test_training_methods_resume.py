"""A method's training that is interrupted and goes on ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from methods_support import flat, kto, method_spec, pairs, prompts, records, run
from training_support import store_in

from ftplatform.core.payload import TrainSpec
from ftplatform.training.methods.sampling import answer, uniforms
from ftplatform.training.model import load_base
from ftplatform.training.watch import Watch

CURVE = ("step", "loss", "grad_norm", "learning_rate")
GRADER = {"type": "text_similarity", "reference": "{{item.answer}}"}


@pytest.fixture(autouse=True)
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def spec_of(folder: Path, method: str, **fields: Any) -> TrainSpec:
    sizes = {"steps": 8, "checkpoint_every": 3, "dropout": 0.1, **fields}
    if method == "kto":
        return method_spec(folder, method, {"train": kto(8, 0)}, **sizes)
    if method == "grpo":
        options = {"rewards": [GRADER], "group_size": 4, "max_new_tokens": 4, "kl": 0.05}
        return method_spec(folder, method, {"train": prompts(6, 0, {"answer": "w5 w6"})}, options, kind="full", **sizes)
    return method_spec(folder, method, {"train": flat(pairs(10, 0))}, **sizes)


@pytest.mark.parametrize("method", ["dpo", "kto", "grpo"])
def test_a_terminated_training_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = run(spec_of(tmp_path / "whole", method), tmp_path / "whole")
    spec = spec_of(tmp_path / "cut", method)
    step_end = Watch.on_step_end

    def terminating(watch: Watch, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        step_end(watch, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step_end", terminating)
        first = run(spec, tmp_path / "cut", 1)
    assert first.outcome == "preempted", first.message
    second = run(spec, tmp_path / "cut", 2)
    assert second.resumed_from == first.numbers["steps"] == 4
    assert second.artifacts["weights"] == whole.artifacts["weights"]
    curves = [
        [[one[name] for name in CURVE] for one in records(tmp_path / name, result)]
        for name, result in (("cut", second), ("whole", whole))
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("method", ["dpo", "kto", "grpo"])
def test_the_split_into_micro_batches_does_not_change_the_training(tmp_path: Path, method: str) -> None:
    losses = []
    for micro, accumulation in ((4, 1), (1, 4)):
        folder = tmp_path / str(micro)
        spec = spec_of(folder, method, dropout=0.0, steps=3)
        changes = {"micro_batch": micro, "accumulation": accumulation}
        lora = spec.lora.model_copy(update={"dropout": 0.0})
        result = run(spec.model_copy(update={**changes, "lora": lora}), folder)
        losses.append([one["grad_norm"] for one in records(folder, result)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_answers_depend_on_their_own_numbers_alone(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "grpo")
    model = load_base(store_in(tmp_path)[1].fetch_tree(spec.base_weights, tmp_path / "again"))
    prompts_ = [torch.tensor([30, 31, 32]), torch.tensor([40])]
    draws = torch.stack([uniforms(6, 1, 2, n) for n in range(2)])
    settings: dict[str, Any] = {"temperature": 0.7, "stop_ids": {1}, "pad_id": 0}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    together = answer(model, prompts_, draws, **settings)
    alone = [answer(model, [prompt], draws[n : n + 1], **settings)[0] for n, prompt in enumerate(prompts_)]
    assert [ids.tolist() for ids in together] == [ids.tolist() for ids in alone]
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(uniforms(6, 1, 2, 3), uniforms(6, 1, 3, 3))


@torch.no_grad()
def test_answers_are_drawn_as_often_as_the_model_says(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "grpo")
    model = load_base(store_in(tmp_path)[1].fetch_tree(spec.base_weights, tmp_path / "again"))
    count, prompt = 4000, torch.tensor([30, 31])
    draws = torch.stack([uniforms(1, 9, n) for n in range(count)])
    found = torch.cat(answer(model, [prompt] * count, draws, temperature=2.0, stop_ids={1}, pad_id=0)).bincount(
        minlength=64
    )
    wanted = (model(input_ids=prompt[None]).logits[0, -1] / 2).softmax(-1) * count
    assert float(((found - wanted) ** 2 / wanted).sum()) < 120  # chi-square, 63 degrees of freedom: p < 1e-5
