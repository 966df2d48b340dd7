"""Virtual tokens before packed rows, rounding in training, bf16 weights, attention of other families: on live models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_support import LENGTH, VOCABULARY, store_in, tiny_base, tiny_spec
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.core.recipe import LoraConfig, TrainingConfig
from ftplatform.training.adapters import add_adapter
from ftplatform.training.fingerprint import fingerprint
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.model import attention_of, check_engaged, load_base, save_weights, trainable_model
from ftplatform.training.shards import IGNORED, Rows
from ftplatform.training.stack import BELOW, put_on
from ftplatform.training.virtual import VirtualTokens, generate

LORA = LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "v_proj", "down_proj"))


def changed(spec: TrainSpec, lora: dict[str, Any] | None = None, **training: Any) -> TrainSpec:
    update = {"training": spec.training.model_copy(update=training)}
    return spec.model_copy(update=update | ({"lora": spec.lora.model_copy(update=lora)} if lora else {}))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parameterisations")
    tiny_base(store_in(folder)[1], folder)
    return folder


def spec_of(folder: Path, kind: str, lora: dict[str, Any] | None = None, **training: Any) -> TrainSpec:
    made = tiny_spec(folder / "specs", kind=kind, dropout=0.0, virtual_tokens=3, **training)
    return made.model_copy(update={"lora": LORA.model_copy(update=lora or {})})


def shaken(model: Any) -> Any:
    """The model with other values in everything it trains, so that an adapter has an effect."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model.eval()


def row(*lengths: int, seed: int = 4) -> Rows:
    """One packed row of documents; every second token of each is labelled."""
    ids = torch.randint(2, VOCABULARY, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    positions = torch.cat([torch.arange(length) for length in lengths])
    targets = torch.full_like(ids, IGNORED)
    targets[:-1] = torch.where(positions[1:] % 2 == 1, ids[1:], IGNORED)
    return Rows(ids[None], targets[None], positions[None])


def documents(packed: Rows) -> list[Rows]:
    starts = [int(n) for n in (packed.position_ids[0] == 0).nonzero()]
    ends = [*starts[1:], packed.position_ids.shape[1]]
    return [
        Rows(packed.input_ids[:, a:b], packed.targets[:, a:b], packed.position_ids[:, a:b])
        for a, b in zip(starts, ends, strict=True)
    ]


def loss(model: Any, rows: Rows) -> torch.Tensor:
    with LabelledLogits(model) as labelled:
        return labelled.loss_sum(model, rows)


def value(tensor: Any) -> float:
    return float(tensor.detach())


def alone(model: Any, start: VirtualTokens | None, rows: Rows) -> torch.Tensor:
    """The loss of one document by nothing of ours but the virtual tokens' values: a cache, then the model itself."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    cache = start.cache(base.config, 1) if start else None
    logits = base(input_ids=rows.input_ids, past_key_values=cache, use_cache=cache is not None).logits
    return torch.nn.functional.cross_entropy(logits[0], rows.targets[0], ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("kind", ["prefix", "prompt", "ia3", "lora"])
def test_a_packed_row_has_the_loss_of_its_documents_alone(place: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = shaken(trainable_model(spec_of(place, kind), place / "base"))
    packed = row(9, 5, 12, 1, 4)
    start = model.virtual_tokens() if kind in ("prefix", "prompt") else None
    each = [value(alone(model, start, one)) for one in documents(packed)]
    whole = loss(model, packed)
    assert value(whole) == pytest.approx(sum(each), rel=1e-5)
    # Two rows of one batch, and each document's tokens see the virtual ones: without them the loss is another.
    both = Rows(*(torch.cat([getattr(packed, n)] * 2) for n in ("input_ids", "targets", "position_ids")))
    assert value(loss(model, both)) == pytest.approx(2 * sum(each), rel=1e-5)
    if start:
        assert abs(value(whole) - sum(value(alone(model, None, one)) for one in documents(packed))) > 2e-3
    whole.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_generation_after_virtual_tokens_does_not_see_padding(place: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = shaken(trainable_model(spec_of(place, kind), place / "base"))
    prompts = [torch.arange(5, 12), torch.arange(20, 23)]
    longest = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in prompts])
    mask = torch.stack([(torch.arange(longest) >= longest - len(one)).long() for one in prompts])
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert out.shape == (2, longest + 6)
    for answer, prompt in zip(out, prompts, strict=True):
        seen = prompt.tolist()
        for _ in range(6):
            with torch.no_grad():
                seen.append(int(model(input_ids=torch.tensor([seen])).logits[0, -1].argmax()))
        assert answer[longest:].tolist() == seen[len(prompt) :]


@pytest.mark.parametrize("kind", ["prefix", "prompt", "ia3", "stack"])
def test_what_was_saved_answers_as_what_was_trained(place: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    init = None
    if kind == "stack":
        below = spec_of(place, "lora")
        init = save_weights(shaken(trainable_model(below, place / "base")), below, place / "base", tmp_path / "lora")
    spec = spec_of(place, "prompt" if kind == "stack" else kind)
    spec = spec.model_copy(update={"init_weights": "0" * 64}) if init else spec
    model = shaken(trainable_model(spec, place / "base", init))
    saved = save_weights(model, spec, place / "base", tmp_path / "saved", init)
    assert (saved / BELOW).is_dir() == (kind == "stack")
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -12:]
        loaded, start = put_on(load_base(place / "base").eval(), saved)
        cache = start.cache(loaded.config, 1) if start else None
        found = loaded(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    proof = fingerprint(place / "base", saved, spec.parameterisation, [3, 4, 5, 6])
    assert proof["token_ids"][0] == int(wanted[0, 3].argmax())


def test_a_training_goes_on_from_the_adapter_it_was_given(place: Path, tmp_path: Path) -> None:
    for kind, parameterisation in (("lora", "lora"), ("ia3", "ia3"), ("prompt", "prompt"), ("full", "full")):
        torch.manual_seed(0)
        spec = spec_of(place, parameterisation)
        first = shaken(trainable_model(spec, place / "base"))
        init = save_weights(first, spec, place / "base", tmp_path / kind)
        again = trainable_model(spec, place / "base", init).eval()
        assert value(loss(again, row(9, 7))) == pytest.approx(value(loss(first, row(9, 7))), rel=1e-5), kind
        assert any(p.requires_grad for p in again.parameters())
    other = spec_of(place, "lora", {"rank": 2, "alpha": 4})
    with pytest.raises(InvalidConfig, match=r"training cannot start from this adapter: .*lora_A.* is .* there and"):
        trainable_model(other, place / "base", tmp_path / "lora")
    with pytest.raises(InvalidConfig, match="lora_alpha differs"):
        trainable_model(spec_of(place, "lora", {"alpha": 16}), place / "base", tmp_path / "lora")


def test_lora_below_virtual_tokens_stays_as_it_is(place: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    below = spec_of(place, "lora", {"dropout": 0.5})
    init = save_weights(shaken(trainable_model(below, place / "base")), below, place / "base", tmp_path / "lora")
    for kind in ("prompt", "prefix"):
        model = trainable_model(spec_of(place, kind), place / "base", init)
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained == ["prompt_encoder.default.embedding.weight"]
        # The dropout of its own training is no part of it any more, also in train mode.
        assert value(loss(model.train(), row(9, 7))) == value(loss(model.eval(), row(9, 7)))


# Rounding


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated")
@pytest.mark.parametrize("qat", ["int4", "int8-int4"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_rounding_training_computes_what_the_quantized_model_will(
    place: Path, tmp_path: Path, kind: str, qat: str
) -> None:
    from ftplatform.training import quantize

    torch.manual_seed(0)
    spec = spec_of(place, kind, qat=qat, qat_group_size=16)
    model = shaken(trainable_model(spec, place / "base"))
    saved = save_weights(model, spec, place / "base", tmp_path / "saved")
    record = json.loads((saved / quantize.RECORD).read_text())
    assert (record["scheme"], record["group_size"]) == (qat, 16)
    engine = quantize.quantized(load_base(saved if kind == "full" else place / "base"), spec.training)
    if kind == "lora":
        engine = put_on(engine, saved)[0]
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(engine(ids).logits, model(input_ids=ids).logits, atol=2e-5, rtol=0)
        plain = put_on(load_base(place / "base"), saved)[0] if kind == "lora" else load_base(saved)
        assert (plain.eval()(ids).logits - model(input_ids=ids).logits).abs().max() > 1e-4


def test_rounding_that_does_not_divide_or_did_not_engage_is_refused(place: Path) -> None:
    from ftplatform.training import quantize

    with pytest.raises(
        InvalidConfig, match=r"qat_group_size 32 does not divide the 48 inputs of model.layers.0.mlp.down"
    ):
        trainable_model(spec_of(place, "full", qat="int4"), place / "base")
    model = trainable_model(spec_of(place, "lora", qat="int4", qat_group_size=16), place / "base")
    with pytest.raises(InvalidConfig, match="qat int8-int4 did not engage"):
        quantize.check_rounding(model, TrainingConfig(learning_rate=1.0, qat="int8-int4", qat_group_size=16))
    with pytest.raises(InvalidConfig, match="did not engage on LlamaForCausalLM: 0 layers round"):
        quantize.check_rounding(load_base(place / "base"), TrainingConfig(learning_rate=1.0, qat="int4"))


def test_weights_trained_under_rounding_lose_less_by_it(place: Path) -> None:
    from ftplatform.training import quantize

    rows = [row(16, 16, seed=n) for n in range(12)]
    batch = Rows(*(torch.cat([getattr(one, n) for one in rows]) for n in ("input_ids", "targets", "position_ids")))
    found: dict[str, list[float]] = {}
    for qat in ("none", "int4"):
        torch.manual_seed(0)
        model = trainable_model(spec_of(place, "full", qat=qat, qat_group_size=16), place / "base")
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(60):
            optimizer.zero_grad()
            (loss(model, batch) / batch.supervised).backward()
            optimizer.step()
        for served in ("none", "int4"):
            plain = load_base(place / "base")
            plain.load_state_dict(model.state_dict())
            later = TrainingConfig(learning_rate=1.0, qat="int4", qat_group_size=16)
            engine = plain if served == "none" else quantize.quantized(plain, later)
            found.setdefault(qat, []).append(value(loss(engine.eval(), batch)) / batch.supervised)
    rise = {qat: after - before for qat, (before, after) in found.items()}
    print(found, rise)
    # docs/recipes.md has the figures of a longer run.
    assert rise["none"] > 0.001
    assert rise["int4"] < rise["none"] / 2


# Types and attention


def test_bf16_weights_have_bf16_gradients(place: Path, tmp_path: Path) -> None:
    spec = spec_of(place, "full", weights="bf16")
    model = trainable_model(spec, place / "base")
    loss(model, row(9, 7)).backward()
    assert {(p.dtype, p.grad.dtype) for p in model.parameters()} == {(torch.bfloat16, torch.bfloat16)}
    saved = save_weights(model, spec, place / "base", tmp_path / "saved")
    assert {t.dtype for t in load_file(saved / "model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(InvalidConfig, match="weights in fp32 were asked for; found are"):
        check_engaged(model, changed(spec, weights="fp32"))


def _gemma(kind: str) -> Any:
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": LENGTH, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(5)
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**shape, sliding_window=8, query_pre_attn_scalar=16))
    return Gemma3ForCausalLM(Gemma3TextConfig(**shape, sliding_window=8, query_pre_attn_scalar=16))


@pytest.mark.parametrize(("kind", "attention"), [("gemma2", "eager"), ("gemma3", "sdpa")])
def test_gemma_trains_packed_rows_with_the_attention_it_has(tmp_path: Path, kind: str, attention: str) -> None:
    _gemma(kind).save_pretrained(tmp_path / "base")
    assert attention_of(tmp_path / "base") == attention
    make: Callable[..., Any] = lambda what: trainable_model(spec_of(tmp_path, what), tmp_path / "base")  # noqa: E731
    model = shaken(make("lora"))
    packed = row(13, 5, 14)
    each = sum(value(alone(model, None, one)) for one in documents(packed))
    assert value(loss(model, packed)) == pytest.approx(each, rel=1e-5)
    with pytest.raises(InvalidConfig, match="leave the attention window of 8"):
        make("prompt")
    # Short rows stay within the window, where virtual tokens are seen by every layer.
    short = add_adapter(
        load_base(tmp_path / "base"), "prefix", LORA, TrainingConfig(learning_rate=1.0, virtual_tokens=3)
    )
    short = shaken(short)
    packed = row(4, 5)
    each = sum(value(alone(short, short.virtual_tokens(), one)) for one in documents(packed))
    assert value(loss(short, packed)) == pytest.approx(each, rel=1e-4)


def test_left_out_virtual_tokens_generate_as_the_model_itself(place: Path) -> None:
    model = load_base(place / "base").eval()
    ids = torch.arange(3, 9)[None]
    config = GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    out = generate(model, None, ids, torch.ones_like(ids), generation_config=config)
    assert out.shape == (1, 10)
