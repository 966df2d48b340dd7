"""The planner against the rules of thumb of the trade, and its refusals, sentences and intervals; all in closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_configs import CONFIGS

from ftplatform.core.errors import PlanRefused
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.calibration import CalibrationKey, Measurement, envelope, record
from ftplatform.planning.choose import FULL, Choice, Request, choose
from ftplatform.planning.hardware import load_hardware
from ftplatform.planning.memory import Layout, estimate_memory, expected_peak
from ftplatform.planning.servable import VLLM_RANKS, servable
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.planning.speed import flops_per_token, hours

CATALOGUE = load_hardware()
SHAPES = {name: ModelShape.from_config(config) for name, config in CONFIGS.items()}
LORA, QLORA = Setup(lora=LoraConfig()), Setup(lora=LoraConfig(), quantization="nf4")
ADAMW, EIGHT_BIT = FULL
SMALL_JOB = 1e6


def plan(model: str, *setups: Setup, tokens: float = SMALL_JOB, length: int = 2048, **wish: Any) -> Choice:
    return choose(Request(SHAPES[model], tokens, length, setups=setups, **wish), CATALOGUE)


@pytest.mark.parametrize("card", ["rtx3090", "rtx4090", "a10", "l4"])
@pytest.mark.parametrize("model", ["llama-2-7b", "mistral-7b", "qwen-2.5-7b"])
def test_a_7b_lora_fits_one_card_of_24_gb(model: str, card: str) -> None:
    found = plan(model, LORA, gpu=card, gpus=1)
    assert found.option.layout.strategy == "single"
    assert found.option.memory.total <= 24


def test_a_7b_full_fits_one_80_gb_card_only_in_bf16_with_an_8_bit_optimizer() -> None:
    found = plan("llama-2-7b", *FULL, gpu="a100-80", gpus=1)
    assert found.option.setup == EIGHT_BIT
    (why,) = (row["why"] for row in found.rejected if "fp32 weights and AdamW" in row["option"])
    assert "AdamW in mixed precision takes 107.8 GB" in why, "16 bytes x 6.74 billion; 112 GB for a round 7 billion"
    for half in (Setup("full", weights="bf16"), Setup("full", optimizer="adamw_8bit")):
        memory = estimate_memory(SHAPES["llama-2-7b"], half, Layout(1, 2048, checkpointing=True))
        assert memory.total > 80, half.words


def test_seven_billion_weights_in_mixed_precision_take_112_gb() -> None:
    seven = replace(SHAPES["llama-2-7b"], outside=7_000_000_000 - 6_738_415_616 + 4096)
    memory = estimate_memory(seven, ADAMW, Layout(1, 2048))
    assert memory.weights + memory.gradients + memory.optimizer == pytest.approx(112, abs=0.01)


def test_a_13b_lora_fits_40_gb_and_not_24() -> None:
    assert plan("llama-2-13b", LORA, gpu="a100-40", gpus=1).option.memory.total <= 40
    with pytest.raises(PlanRefused, match=r"24 GB.*nearest plan that works.*40|24 GB.*nearest plan that works"):
        plan("llama-2-13b", LORA, gpu="rtx3090", gpus=1)
    assert plan("llama-2-13b", QLORA, gpu="rtx3090", gpus=1).option.setup.name == "qlora"


@pytest.mark.parametrize("model", ["llama-2-70b", "llama-3-70b"])
def test_a_70b_lora_fits_one_node_of_eight_80_gb_cards_and_qlora_one_card(model: str) -> None:
    lora = plan(model, LORA, gpu="h100-80", gpus=8)
    assert (lora.option.nodes, lora.option.layout.strategy) == (1, "fsdp2")
    assert plan(model, QLORA, gpu="h100-80", gpus=1).option.memory.total <= 80


@pytest.mark.parametrize("card", ["a100-80", "h100-80"])
def test_a_70b_full_needs_32_cards_of_80_gb(card: str) -> None:
    found = plan("llama-2-70b", ADAMW, gpu=card)
    assert (found.option.layout.gpus, found.option.nodes, found.option.layout.strategy) == (32, 4, "fsdp2")
    assert any("16 x" in row["option"] and "needs" in row["why"] for row in found.rejected)


def test_offload_is_the_last_resort() -> None:
    assert plan("llama-2-70b", ADAMW, gpu="h100-80", gpus=16).option.layout.strategy == "offload"
    assert plan("llama-2-70b", ADAMW, gpu="h100-80").option.layout.strategy == "fsdp2"


def test_7b_full_in_mixed_precision_fits_one_80_gb_card_by_offload_where_the_host_has_189_gb() -> None:
    entry = CATALOGUE.get("h100-80")
    share = entry.kubernetes.model_copy(update={"memory_gb": 190.0})
    roomy = CATALOGUE.model_copy(update={"hardware": {"h100-80": entry.model_copy(update={"kubernetes": share})}})
    request = Request(SHAPES["llama-2-7b"], SMALL_JOB, 2048, setups=(ADAMW,), gpu="h100-80", gpus=1)
    assert choose(request, roomy).option.layout.strategy == "offload"
    with pytest.raises(PlanRefused, match="189 GB of host memory"):
        choose(request, CATALOGUE)


def test_the_answer_has_exactly_the_fields_that_are_promised() -> None:
    answer = plan("llama-3-8b", target="cost").to_json()
    assert list(answer) == [
        *("method", "gpu", "gpus", "nodes", "strategy", "micro_batch", "accumulation", "memory_gb", "hours", "price"),
        *("servable", "reasons", "rejected"),
    ]
    terms = ["weights", "gradients", "optimizer", "activations", "logits", "other"]
    assert list(answer["memory_gb"]) == [*terms, "total"]
    assert sum(answer["memory_gb"][term] for term in terms) == pytest.approx(answer["memory_gb"]["total"])
    assert answer["rejected"]
    assert all(list(row) == ["option", "why"] and row["why"] for row in answer["rejected"])
    json.dumps(answer)


def test_cost_first_is_never_dearer_than_quality_first() -> None:
    cheap, good = (plan("llama-3-8b", tokens=2e8, target=target, spot=False) for target in ("cost", "quality"))
    assert cheap.option.middle <= good.option.middle
    assert good.option.setup.quantization == "none"


def test_quality_first_takes_full_weights_where_the_data_is_more_than_an_adapter_holds() -> None:
    assert plan("llama-3.2-1b", tokens=1e7, target="quality").option.setup.name == "lora"
    assert plan("llama-3.2-1b", tokens=5e9, target="quality").option.setup == ADAMW


def test_the_rank_grows_with_the_data_and_is_one_that_is_served() -> None:
    ranks = [plan("llama-3-8b", tokens=tokens, target="quality").option.setup.rank for tokens in (1e6, 1e8, 4e8, 1e9)]
    assert ranks == sorted(ranks)
    assert ranks[0] == 16 < ranks[-1]
    assert set(ranks) <= set(VLLM_RANKS)


def test_a_deadline_buys_more_hardware_and_an_impossible_one_is_refused() -> None:
    slow, fast = plan("llama-3-8b", tokens=1e8, spot=False), plan("llama-3-8b", tokens=1e8, deadline=1)
    assert fast.option.hours[1] <= 1 < slow.option.hours[1]
    assert any("deadline is 1 hours" in row["why"] for row in fast.rejected)
    with pytest.raises(PlanRefused, match=r"deadline.*nearest plan that works with more time: lora"):
        plan("llama-3-70b", tokens=1e9, deadline=0.5)


def test_a_budget_is_kept_or_the_plan_is_refused() -> None:
    free = plan("llama-3-8b")
    assert plan("llama-3-8b", budget=free.option.price[1]).option.price[1] <= free.option.price[1]
    with pytest.raises(PlanRefused, match=r"the budget is 0\.01"):
        plan("llama-3-8b", budget=0.01)


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        (Setup(lora=LoraConfig(use_dora=True)), "refuses DoRA"),
        (Setup(lora=LoraConfig(rank=300, init_lora_weights="pissa")), "does not accept rank 600 .*twice the rank"),
        (Setup("prompt"), "does not serve prompt"),
        (Setup("prefix"), "does not serve prefix"),
        (Setup("ia3"), "does not serve ia3"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_with_the_nearest_that_works(setup: Setup, why: str) -> None:
    answer = servable(setup)
    assert not answer.ok
    assert answer.nearest is not None
    assert servable(answer.nearest).ok
    assert servable(setup, "embedded").ok != bool(setup.lora and setup.lora.use_dora)
    with pytest.raises(PlanRefused, match=rf"{why}.*nearest plan that works: lora rank"):
        plan("llama-3-8b", setup)


def test_a_length_beyond_the_models_context_is_refused() -> None:
    with pytest.raises(PlanRefused, match="above the 4096 tokens"):
        plan("llama-2-7b", LORA, length=8192)


@given(
    model=st.sampled_from(["llama-3.2-1b", "llama-2-7b", "gemma-2-9b", "phi-3-mini", "gpt2", "mixtral-8x7b"]),
    setup=st.sampled_from([LORA, QLORA, ADAMW, EIGHT_BIT, Setup(lora=LoraConfig(), quantization="int8")]),
    micro=st.integers(1, 8),
    length=st.sampled_from([256, 512, 1024]),
)
@settings(deadline=None, max_examples=60)
def test_memory_moves_the_way_it_must(model: str, setup: Setup, micro: int, length: int) -> None:
    shape = SHAPES[model]
    layout = Layout(micro, length)
    memory = estimate_memory(shape, setup, layout)
    assert estimate_memory(shape, setup, replace(layout, micro_batch=micro + 1)).total > memory.total
    assert estimate_memory(shape, setup, replace(layout, checkpointing=True)).total < memory.total
    assert expected_peak(memory, 1) <= expected_peak(memory, 2) == memory.total
    if not setup.full:
        assert memory.gradients < estimate_memory(shape, ADAMW, layout).gradients / 10
    four = estimate_memory(shape, ADAMW, replace(layout, gpus=4, strategy="fsdp2"))
    eight = estimate_memory(shape, ADAMW, replace(layout, gpus=8, strategy="fsdp2"))
    assert eight.weights == pytest.approx(four.weights / 2, abs=1e-3)
    assert eight.optimizer == pytest.approx(four.optimizer / 2, abs=1e-3)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "llama-3.2-3b", "llama-3-8b"])
@pytest.mark.parametrize("length", [1024, 2048])
def test_lora_takes_less_than_two_fifths_of_full_weights(model: str, length: int) -> None:
    layout = Layout(1, length, checkpointing=True)
    full, lora = (estimate_memory(SHAPES[model], setup, layout).total for setup in (ADAMW, LORA))
    assert lora < 0.4 * full


def test_logits_are_counted_at_labelled_positions_and_in_chunks() -> None:
    shape = SHAPES["llama-3-8b"]
    whole, tenth = (estimate_memory(shape, LORA, Layout(1, 512, labelled=share)).logits for share in (1.0, 0.1))
    assert tenth == pytest.approx(whole / 10, rel=0.02)
    long, longer = (estimate_memory(shape, LORA, Layout(1, length)).logits for length in (2048, 4096))
    assert long == longer


def test_duration_is_six_flops_a_weight_over_the_catalogues_rate() -> None:
    shape, device = SHAPES["llama-2-7b"], CATALOGUE.get("a100-80")
    flops = flops_per_token(shape, ADAMW, 2048, checkpointing=False)
    weights = 6_738_415_616 - 32000 * 4096 - (2 * 32 + 1) * 4096
    assert flops == 6 * weights + 12 * 32 * 2048 * 4096
    low, high = hours(shape, ADAMW, Layout(1, 2048), 1e8, device)
    # 0.45 and 0.15 of 312 TFLOPS; start-up and loading are minutes.
    assert low == pytest.approx(flops * 1e8 / (312e12 * 0.45) / 3600, rel=0.01)
    assert high == pytest.approx(flops * 1e8 / (312e12 * 0.15) / 3600, rel=0.01)


def test_a_mixture_of_experts_computes_with_its_active_weights_and_stores_all() -> None:
    shape = SHAPES["qwen-3-30b-a3b"]
    assert shape.parameters == pytest.approx(30.5e9, rel=0.01)
    assert shape.active == pytest.approx(3.0e9, rel=0.05)


class Documents(dict[str, Any]):
    """The store's documents."""

    def put_doc(self, name: str, value: object) -> None:
        self[name] = value

    def get_doc(self, name: str) -> object:
        return self[name]

    def list_docs(self, prefix: str) -> list[str]:
        return sorted(name for name in self if name.startswith(prefix))


def test_finished_jobs_make_an_envelope_that_the_next_plan_uses() -> None:
    store = Documents()
    key = CalibrationKey(base="llama@12345678", parameterisation="lora", length=2048, gpu="rtx3090")
    assert envelope(store, key) is None
    record(store, key, "one", Measurement(estimated_gb=20, peak_gb=22, tokens_per_second=2000))
    record(store, key, "two", Measurement(estimated_gb=20, peak_gb=19, tokens_per_second=2500))
    record(store, key, "two", Measurement(estimated_gb=20, peak_gb=19, tokens_per_second=2500))
    found = envelope(store, key)
    assert found is not None
    assert (found.jobs, found.memory_ratio, found.tokens_per_second) == (2, (0.95, 1.1), (2000, 2500))

    request = Request(SHAPES["llama-2-7b"], 0.95e7, 2048, epochs=1, setups=(LORA,), gpu="rtx3090", gpus=1)
    before = choose(request, CATALOGUE)
    after = choose(request, CATALOGUE, lambda setup, length, gpu: found)
    assert after.option.memory.total * 1.1 <= 24
    assert after.option.hours[0] == pytest.approx(1e7 / 2500 / 3600, rel=0.01)
    assert any("finished jobs" in reason for reason in after.reasons)
    assert any("catalogue" in reason for reason in before.reasons)


def test_frozen_blocks_and_embeddings_have_no_gradient_and_no_state() -> None:
    shape = SHAPES["llama-3.2-1b"]
    half = replace(ADAMW, frozen_layers=tuple(range(8)), frozen_embeddings=True)
    whole, less = (estimate_memory(shape, setup, Layout(1, 512)) for setup in (ADAMW, half))
    assert less.weights == whole.weights
    # Eight of sixteen equal blocks and the final norm are left of all that is trained.
    blocks = 1_235_814_400 - 128256 * 2048
    assert less.gradients == pytest.approx(4 * blocks / 2 / 1e9, rel=0.001)
    assert less.optimizer == pytest.approx(8 * blocks / 2 / 1e9, rel=0.001)
    with pytest.raises(PlanRefused, match=r"blocks \[16\]; this model has blocks 0 to 15"):
        estimate_memory(shape, replace(ADAMW, frozen_layers=(16,)), Layout(1, 512))
