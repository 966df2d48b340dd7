"""A reward model in bf16: its head is trained, kept and computed in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from methods_support import method_spec
from training_support import store_in

from ftplatform.core.recipe import LoraConfig
from ftplatform.training.methods.base import Work, open_method
from ftplatform.training.methods.reward import ScoreAtEnd


def reward_model(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> torch.nn.Module:
    """As a training on a GPU makes it."""
    spec = method_spec(folder, "reward", None, kind=kind, precision="bf16")
    spec = spec.model_copy(update={"lora": LoraConfig(rank=4, alpha=8, target_modules=("q_proj",))})
    store = store_in(folder)[1]
    base = store.fetch_tree(spec.base_weights, folder / "fetched")
    method = open_method(Work(spec, store, base, folder, lambda message: None))
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        torch.manual_seed(0)
        model: torch.nn.Module = method.model()
    return model.train()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_is_trained_and_its_states_are_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    model = reward_model(tmp_path, monkeypatch, kind)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("score" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    if kind == "lora":
        assert torch.bfloat16 in {p.dtype for p in model.parameters()}, "the base is as it was asked for"
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    with torch.autocast("cpu", torch.bfloat16), ScoreAtEnd(model) as head:
        scores = head.score(model, torch.tensor([[3, 4, 5], [3, 4, 6]]), torch.tensor([3, 3]))
        torch.nn.functional.softplus(scores[1] - scores[0]).backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in states} == {torch.float32}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_scores_that_lie_close_together_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    model = reward_model(tmp_path, monkeypatch, kind).eval()
    with torch.no_grad(), ScoreAtEnd(model) as head:
        weight = head._head.weight
        ids = torch.randint(2, 60, (64, 4), generator=torch.Generator().manual_seed(1))
        lengths = torch.full((64,), 4)
        with torch.autocast("cpu", torch.bfloat16):
            plain = head.score(model, ids, lengths)
            captured: list[torch.Tensor] = []
            handle = head._head.register_forward_pre_hook(lambda module, given: captured.append(given[0]))
            head.score(model, ids, lengths)
            handle.remove()
            hidden = captured[0][:, -1].float()
        wanted = hidden @ weight[0].float()
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain, wanted, rtol=1e-5, atol=1e-6)
    first, second = plain.topk(2).values
    assert first > second
    assert not torch.equal(plain, plain.bfloat16().float()), "as they would be if a product in bf16 had made them"
