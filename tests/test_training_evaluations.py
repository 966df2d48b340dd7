"""Evaluations: the same figures whatever the micro-batch and the number of processes, and signs of life meanwhile."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from methods_support import flat, kto, method_spec, pairs, prompts
from training_support import store_in

from ftplatform.core.payload import TrainSpec
from ftplatform.training.distributed import fsdp
from ftplatform.training.methods import flat as flat_module
from ftplatform.training.methods.base import Figures, TrainingMethod, Work, open_method
from ftplatform.training.methods.flat import starting_logprobs

COUNT = 7
"""Pairs of the split, twice as many answers."""
SIZES = {"dpo": (3, 8)}
"""Micro-batches with which one of two processes computes the last time for nothing, or only for nothing."""


def spec_of(folder: Path, name: str, **fields: Any) -> TrainSpec:
    if name in ("sft", "distillation"):
        options = {"teacher": "starter@0a1b2c3d"} if name == "distillation" else None
        spec = method_spec(folder, name, None, options, **fields)
        return spec.model_copy(update={"teacher_weights": spec.base_weights if options else None})
    if name == "grpo":
        reward = {"type": "string_check", "reference": "w3", "operation": "like"}
        options = {"rewards": [reward], "group_size": 4, "max_new_tokens": 6}
        return method_spec(folder, name, {"validation": prompts(COUNT, 1, {})}, options, **fields)
    make = kto if name == "kto" else lambda count, seed: flat(pairs(count, seed))
    return method_spec(folder, name, {"validation": make(COUNT, 1)}, **fields)


def moved(model: Any) -> Any:
    """The same model everywhere, and not the starting one."""
    draw = torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def opened(folder: Path, spec: TrainSpec, said: list[str] | None = None) -> tuple[TrainingMethod, Any, Any]:
    """A method, its model away from the start, and the validation split."""
    torch.manual_seed(0)
    store, alive = store_in(folder)[1], (said if said is not None else []).append
    work = Path(tempfile.mkdtemp(dir=folder))
    method = open_method(Work(spec, store, store.fetch_tree(spec.base_weights, work / "base"), work, alive))
    model = method.model()
    examples = method.read([store.path(spec.shards["validation"][0])], model.get_input_embeddings().num_embeddings)
    method.begin(model, {"validation": examples})
    if spec.method == "kto":
        # A divergence that is not 0 for all answers and is 0 for some of the micro-batches.
        examples.mismatched.reference -= torch.linspace(-1, 3, len(examples))[:, None]
    return method, moved(model), examples


def evaluated(folder: Path, spec: TrainSpec) -> dict[str, float]:
    method, model, examples = opened(folder, spec)
    return method.evaluate(model, examples)


def test_of_kto_the_loss_is_that_of_the_whole_split_whatever_the_micro_batch(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "kto")
    found = [evaluated(tmp_path, spec.model_copy(update={"micro_batch": size})) for size in (1, 2, 8)]
    assert found[0]["eval_kl"] > 0
    for name, value in found[0].items():
        assert [one[name] for one in found[1:]] == pytest.approx([value, value], rel=1e-5), name


def test_of_kto_a_step_has_the_divergence_of_its_effective_batch(tmp_path: Path) -> None:
    """And not that which an evaluation was given."""
    method, model, examples = opened(tmp_path, spec_of(tmp_path, "kto"))
    method.evaluate(model, examples)
    halves = method.prepare(model, [examples.collate([0, 1]), examples.collate([2, 3])], examples, 0)
    [whole] = method.prepare(model, [examples.collate([0, 1, 2, 3])], examples, 0)
    assert float(halves[0]["kl"]) == float(halves[1]["kl"]) == pytest.approx(float(whole["kl"]), rel=1e-5)


@pytest.mark.parametrize("name", ["sft", "kto"])
def test_every_micro_batch_of_an_evaluation_gives_a_sign_of_life(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    spec = spec_of(tmp_path, name).model_copy(update={"micro_batch": 1})
    method, model, examples = opened(tmp_path, spec, said)
    said.clear()
    method.evaluate(model, examples)
    assert len(said) == len(examples) * (2 if name == "kto" else 1)
    assert said[1].endswith(f": 1 of {len(examples)}")


def test_figures_of_what_is_not_counted_are_names_alone() -> None:
    figures, spare = Figures(), Figures()
    spare.add("nothing", torch.tensor([float("nan")]))
    figures.merge(spare, counted=False)
    figures.add("mean", torch.tensor([1.0, 2.0]))
    figures.add("mean", torch.tensor([6.0]))
    assert sorted(figures._sums) == ["mean", "nothing"]
    assert figures.take() == {"mean": 3.0}
    assert figures.take() == {}


def _process(rank: int, folder: Path, specs: list[TrainSpec], sharded: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for number, spec in enumerate(specs):
        place = folder / f"rank{rank}-{number}"
        place.mkdir()
        method, model, examples = opened(folder / f"spec{number}", spec)
        if sharded:
            fsdp.shard(model, bf16=False)
        calls: list[int] = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        found.append((method.evaluate(model, examples), len(calls)))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def in_two_processes(folder: Path, specs: list[TrainSpec], *, sharded: bool) -> list[Any]:
    """Per process and spec the figures of an evaluation, and how often the model was called."""
    torch.multiprocessing.spawn(_process, (folder, specs, sharded), nprocs=2)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _same_in_two(folder: Path, names: list[str], *, sharded: bool) -> None:
    made = [(name, size) for name in names for size in SIZES.get(name, (2,))]
    specs = []
    for number, (name, size) in enumerate(made):
        place = folder / f"spec{number}"
        specs.append(spec_of(place, name, kind="full").model_copy(update={"micro_batch": size}))
    alone = [evaluated(folder / f"spec{number}", spec) for number, spec in enumerate(specs)]
    first, second = in_two_processes(folder, specs, sharded=sharded)
    assert first == second
    for (name, size), ours, (theirs, calls) in zip(made, alone, first, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-6), name
        if name != "grpo":
            rows = {"sft": 4, "distillation": 4, "kto": 2 * COUNT}.get(name, COUNT)
            assert calls == math.ceil(rows / size / 2) * (2 if name == "kto" else 1), name


def test_two_processes_share_an_evaluation_and_have_the_figures_of_one(tmp_path: Path) -> None:
    _same_in_two(tmp_path, ["sft", "dpo", "kto", "reward", "grpo"], sharded=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_of_a_sharded_model_share_an_evaluation(tmp_path: Path) -> None:
    _same_in_two(tmp_path, ["sft", "dpo", "kto", "distillation"], sharded=True)


def test_processes_that_see_another_store_do_as_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own look, one would read, and the others wait for it in sums for ever."""
    method, model, examples = opened(tmp_path, spec_of(tmp_path, "dpo"))
    work, expected, looks = method.work, examples.reference, []

    def agreed(answer: int) -> Any:
        def highest(number: int) -> int:
            looks.append(number)
            return answer

        return highest

    monkeypatch.setattr(flat_module, "world", lambda: (1, 2))
    monkeypatch.setattr(flat_module, "highest", agreed(1))
    assert torch.equal(starting_logprobs(work, model, examples, "validation"), expected)
    monkeypatch.setattr(flat_module, "highest", agreed(0))
    assert not torch.equal(starting_logprobs(work, model, examples, "validation"), expected)
    assert looks == [0, 0], "only the first process looks"
