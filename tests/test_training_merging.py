"""Adapters merged with each other and into their base: exactly where that can be, and the same bytes every time."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training_parameterisations import shaken
from training_support import store_in, tiny_base, tiny_spec
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.core.errors import InvalidConfig
from ftplatform.training.export import export_merged, main
from ftplatform.training.merging import merge_adapters
from ftplatform.training.model import load_base, save_weights, trainable_model
from ftplatform.training.stack import put_on

IDS = torch.arange(3, 19)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with LoRA of two ranks and scales, IA3 and a prompt."""
    folder = tmp_path_factory.mktemp("merging")
    tiny_base(store_in(folder)[1], folder)
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "one": ("lora", {"rank": 4, "alpha": 8}),
        "two": ("lora", {"rank": 2, "alpha": 6, "use_rslora": True}),
        "head": ("lora", {"target_modules": ("q_proj", "embed_tokens")}),
        "dora": ("lora", {"use_dora": True}),
        "factors": ("ia3", {}),
        "prompt": ("prompt", {}),
    }
    for seed, (name, (kind, lora)) in enumerate(made.items()):
        torch.manual_seed(seed)
        spec = tiny_spec(folder / "specs", kind=kind, dropout=0.0, virtual_tokens=2)
        spec = spec.model_copy(update={"lora": spec.lora.model_copy(update={"dropout": 0.0, **lora})})
        with warnings.catch_warnings():
            # PEFT's word on tied embeddings under an adapter, which is what "head" is here for.
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            model = shaken(trainable_model(spec, folder / "base"))
        save_weights(model, spec, folder / "base", folder / name)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def changes(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight."""
    tensors, config = (
        load_file(folder / "adapter_model.safetensors"),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    names = [name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name]
    return {n: scale * tensors[f"{n}.lora_B.weight"] @ tensors[f"{n}.lora_A.weight"] for n in names}


def test_a_linear_merge_is_the_weighted_sum_of_the_changes(place: Path, tmp_path: Path) -> None:
    record = merge_adapters([place / "one", place / "two"], [0.7, -0.3], tmp_path)
    assert (record["rank"], record["kept"]) == (6, 1.0)
    first, second, both = changes(place / "one"), changes(place / "two"), changes(tmp_path)
    assert set(both) == set(first)
    for name, change in both.items():
        torch.testing.assert_close(change, 0.7 * first[name] - 0.3 * second[name], atol=1e-6, rtol=0)
    # PEFT loads it, every tensor in its place, and it answers.
    put_on(load_base(place / "base"), tmp_path)


@pytest.mark.parametrize("method", ["ties", "dare", "dare-ties"])
def test_a_merge_by_choice_follows_its_paper_and_repeats_to_the_byte(place: Path, tmp_path: Path, method: str) -> None:
    pair = [place / "one", place / "two"]
    merge_adapters(pair, [0.5, 0.5], tmp_path / "a", method=method, density=0.5, rank=32, seed=3)
    torch.rand(7)  # The global random numbers are neither used nor moved.
    before = torch.get_rng_state()
    record = merge_adapters(pair, [0.5, 0.5], tmp_path / "b", method=method, density=0.5, rank=32, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    files = ("adapter_model.safetensors", "adapter_config.json", "merge.json")
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    merge_adapters(pair, [0.5, 0.5], tmp_path / "c", method=method, density=0.5, rank=32, seed=4)
    same = (tmp_path / "a" / files[0]).read_bytes() == (tmp_path / "c" / files[0]).read_bytes()
    assert same == (method == "ties")
    # All 32 ranks of a 32-wide layer hold anything; a lower rank keeps less, and says how much.
    assert record["kept"] > 0.999
    assert 0.3 < merge_adapters(pair, [0.5, 0.5], tmp_path / "d", method=method, rank=4, seed=3)["kept"] < 0.95
    if method == "ties":
        first, second, both = changes(place / "one"), changes(place / "two"), changes(tmp_path / "a")
        for name, change in both.items():
            parts = torch.stack([_top(first[name]), _top(second[name])])
            sign = parts.sum(0).sign()
            agree = torch.where(parts.sign() == sign, parts, 0.0)
            wanted = agree.sum(0) / (agree != 0).sum(0).clamp(min=1)
            torch.testing.assert_close(change, wanted, atol=1e-5, rtol=0)


def _top(change: torch.Tensor) -> torch.Tensor:
    """The larger half of the entries."""
    chosen = change.abs().flatten().topk(change.numel() // 2).indices
    return torch.zeros_like(change).flatten().index_copy(0, chosen, change.flatten()[chosen]).reshape(change.shape)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("one",), {}, "accepted are two adapters or more"),
        (("one", "two"), {"method": "soup"}, "linear, ties, dare, dare-ties"),
        (("one", "dora"), {}, "dora cannot be merged: found LORA with use_dora"),
        (("one", "prompt"), {}, "prompt cannot be merged: found PROMPT_TUNING"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    place: Path, tmp_path: Path, names: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        merge_adapters([place / name for name in names], [1.0] * len(names), tmp_path / "out", **options)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("name", ["one", "two", "dora", "factors", "head"])
def test_a_merged_folder_gives_the_logits_of_base_and_adapter(place: Path, tmp_path: Path, name: str) -> None:
    record = export_merged(place / "base", place / name, tmp_path / "out")
    wanted = logits(put_on(load_base(place / "base"), place / name)[0])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    torch.testing.assert_close(logits(loaded), wanted, atol=1e-5, rtol=0)
    assert record["largest_difference"] <= 1e-5
    # Tied embeddings stay one matrix, unless the adapter changes one of them.
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert ("lm_head.weight" in stored, loaded.config.tie_word_embeddings) == (name == "head", name != "head")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (logits(load_base(place / "base")) - wanted).abs().max() > 1e-3


def test_virtual_tokens_and_quantized_bases_are_not_merged(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"virtual tokens .* cannot be merged"):
        export_merged(place / "base", place / "prompt", tmp_path / "out")
    config = json.loads((place / "base" / "config.json").read_text())
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "awq"}})
    )
    with pytest.raises(InvalidConfig, match=r"stored quantized \(awq\)"):
        export_merged(tmp_path / "stored", place / "one", tmp_path / "out")


def test_the_work_is_asked_for_by_a_file_and_answers_by_one(place: Path, tmp_path: Path) -> None:
    request = {"work": "merge", "folders": [str(place / name) for name in ("one", "two")], "weights": [0.5, 0.5]}
    options = {"into": str(tmp_path / "merged"), "method": "ties", "density": 0.5, "rank": None, "seed": 1}
    (tmp_path / "request.json").write_text(json.dumps(request | options))
    assert main(tmp_path / "request.json") == 0
    assert json.loads((tmp_path / "result.json").read_text())["record"]["rank"] == 6
    places = {name: str(place / name) for name in ("base",)} | {
        "adapter": str(place / "prompt"),
        "into": str(tmp_path / "o"),
    }
    (tmp_path / "request.json").write_text(json.dumps({"work": "export", "dtype": "fp32", **places}))
    assert main(tmp_path / "request.json") == 1
    assert "virtual tokens" in json.loads((tmp_path / "result.json").read_text())["error"]


@pytest.mark.slow
def test_ft_adapter_merges_and_exports(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPLATFORM_HOME", str(tmp_path / "home"))
    from ftplatform.cli.common import open_parts

    store = open_parts().store
    store.put_tree(place / "base")
    one, two = (store.put_tree(place / name) for name in ("one", "two"))
    run = CliRunner()
    said = run.invoke(app, ["adapter", "merge", one, two, "--weights", "0.5,0.5", "--out", str(tmp_path / "merged")])
    assert said.exit_code == 0, said.output
    digest = said.output.split()[-1]
    assert {file.path for file in store.tree(digest).files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "merge.json",
    }
    out = tmp_path / "model"
    said = run.invoke(app, ["adapter", "export", digest, "--out", str(out), "--merged"])
    assert said.exit_code == 0, said.output
    wanted = logits(put_on(load_base(place / "base"), tmp_path / "merged")[0])
    torch.testing.assert_close(logits(load_base(out)), wanted, atol=1e-5, rtol=0)
    again = run.invoke(app, ["adapter", "export", digest, "--out", str(out)])
    assert isinstance(again.exception, InvalidConfig)
    assert "found something there" in str(again.exception)
    strange = run.invoke(app, ["adapter", "merge", one, "acme/support|never@1"])
    assert "was never trained" in str(strange.exception)
