"""IA3, prefix, prompt and LoRA below them: what the embedded engine and the evaluation answer is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from serving_support import Bench, make_bench
from test_training_parameterisations import shaken
from training_support import tiny_spec
from transformers import DynamicCache, GenerationConfig

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import LoraConfig
from ftplatform.evaluation.runner_model import LoadedBase
from ftplatform.planning.servable import servable
from ftplatform.planning.setup import Setup
from ftplatform.serving.embedded_model import Instance, check_adapter
from ftplatform.serving.embedded_pool import Pool
from ftplatform.serving.embedded_scheduler import Scheduler
from ftplatform.training.fingerprint import fingerprint
from ftplatform.training.model import save_weights, trainable_model
from ftplatform.training.stack import put_on

KINDS = ("lora", "prefix", "prompt", "stack", "ia3")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A base with an adapter of every kind, made by the training's own model and saving."""
    made = make_bench(tmp_path_factory.mktemp("answers"))
    for kind in KINDS:
        spec = tiny_spec(made.root / "specs", kind={"stack": "prompt"}.get(kind, kind), dropout=0.0, virtual_tokens=4)
        spec = spec.model_copy(update={"lora": LoraConfig(rank=4, alpha=16, target_modules=("q_proj", "up_proj"))})
        init = made.root / "lora" if kind == "stack" else None
        spec = spec.model_copy(update={"init_weights": made.adapters["lora"] if init else None})
        torch.manual_seed(KINDS.index(kind))
        model = shaken(trainable_model(spec, made.base_folder, init))
        save_weights(model, spec, made.base_folder, made.root / kind, init)
        made.adapters[kind] = made.store.put_tree(made.root / kind)
    return made


def proof(bench: Bench, kind: str) -> dict[str, Any]:
    return fingerprint(bench.base_folder, bench.root / kind, "lora", [10, 20, 30])


def test_the_engine_switches_between_adapters_of_every_kind(bench: Bench) -> None:
    instance = Instance(bench.base_folder)
    names = {kind: instance.add_adapter(bench.root / kind) for kind in KINDS if kind != "ia3"}
    expected = {kind: proof(bench, kind) for kind in names}
    assert len({tuple(one["token_ids"]) for one in expected.values()}) > 1
    for kind in (*names, *reversed(names)):
        one = expected[kind]
        tokens, logprobs = instance.score(names[kind], one["prompt_ids"], one["token_ids"])
        assert tokens == one["token_ids"], kind
        assert logprobs == pytest.approx(one["logprobs"], abs=1e-4), kind
        # Token by token with a cache, as answers are made.
        cache, ids, said = DynamicCache(config=instance.config), one["prompt_ids"], []
        for _ in range(4):
            said.append(int(instance.forward(names[kind], ids, cache).argmax()))
            ids = said[-1:]
        assert said == one["token_ids"][:4], kind
    assert [instance.room(name) for name in (None, *names.values())] == [
        instance.max_length - n for n in (0, 0, 4, 4, 4)
    ]
    plain = instance.score(None, [10, 20], [30, 40])[1]
    for name in names.values():
        instance.remove_adapter(name)
    assert instance.score(None, [10, 20], [30, 40])[1] == plain
    with pytest.raises(RuntimeError, match="there is no adapter"):
        instance.score(names["prompt"], [10], [20])


def test_a_pool_proves_every_kind_by_its_fingerprint(bench: Bench) -> None:
    scheduler = Scheduler()
    scheduler.start()
    try:
        pool = Pool(bench.store, scheduler, bench.root / "trees")
        for kind in KINDS:
            pool.load(bench.served(kind, fingerprint=bench.store.put_json(proof(bench, kind))))
        assert len(pool.models()) == len(KINDS)
        for kind in KINDS:
            pool.unload(kind)
    finally:
        scheduler.close()


def test_the_evaluation_scores_every_kind_as_it_was_trained(bench: Bench) -> None:
    prompts, answers = [[10, 20, 30, 40], [50]], [[7, 8], [9]]
    config = GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    for group in (("lora", "prefix", "prompt", "stack"), ("ia3",)):
        loaded = LoadedBase(
            bench.base_folder, {bench.adapters[kind]: bench.root / kind for kind in group}, lambda: None
        )
        for kind in (None, *group, *reversed(group)):
            with loaded.using(kind and bench.adapters[kind]) as lm:
                pairs = [("", prompt, answer) for prompt in prompts for answer in answers]
                lm.batch_size_per_gpu = 2
                found = [score for score, _ in lm._loglikelihood_tokens(pairs)]
                assert found == pytest.approx([direct(bench, kind, p, a) for _, p, a in pairs], abs=1e-4), kind
                context = torch.tensor([[10, 20, 30, 40], [0, 0, 0, 50]])
                mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
                lm._ends = []
                config.eos_token_id = None
                out = lm._model_generate(context, 8, [], attention_mask=mask)[:, 4:].tolist()
                assert out == [greedy(bench, kind, prompt) for prompt in prompts], kind
        virtual = {None: 0, "lora": 0, "ia3": 0}
        for kind in (None, *group):
            with loaded.using(kind and bench.adapters[kind]) as lm:
                assert lm.max_length == loaded._model.config.max_position_embeddings - virtual.get(kind, 4)


def _model(bench: Bench, kind: str | None) -> tuple[Any, Any]:
    from ftplatform.training.model import load_base

    base = load_base(bench.base_folder).eval()
    return put_on(base, bench.root / kind) if kind else (base, None)


@torch.no_grad()
def direct(bench: Bench, kind: str | None, prompt: list[int], answer: list[int]) -> float:
    model, start = _model(bench, kind)
    cache = start.cache(model.config, 1) if start else None
    ids = torch.tensor([prompt + answer])
    logits = model(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


@torch.no_grad()
def greedy(bench: Bench, kind: str | None, prompt: list[int]) -> list[int]:
    model, start = _model(bench, kind)
    ids = list(prompt)
    for _ in range(4):
        cache = start.cache(model.config, 1) if start else None
        out = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None)
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_the_plan_refuses_what_the_engine_refuses(bench: Bench, tmp_path: Path) -> None:
    for kind in KINDS:
        check_adapter(bench.root / kind, 512)
    for kind in ("lora", "ia3", "prefix", "prompt", "full"):
        assert servable(Setup(parameterisation=kind), "embedded").ok
    refused = servable(Setup(lora=LoraConfig(use_dora=True)), "embedded")
    assert not refused.ok
    assert refused.nearest is not None
    assert not refused.nearest.lora.use_dora
    spec = tiny_spec(tmp_path, kind="lora")
    spec = spec.model_copy(update={"lora": spec.lora.model_copy(update={"use_dora": True})})
    save_weights(trainable_model(spec, tmp_path / "base"), spec, tmp_path / "base", tmp_path / "dora")
    with pytest.raises(InvalidConfig, match="use_dora"):
        check_adapter(tmp_path / "dora", 512)
