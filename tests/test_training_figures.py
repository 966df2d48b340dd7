"""What a training says of itself while it runs: FLOPs, utilisation, tokens, time left."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_support import LENGTH, VOCABULARY, store_in, tiny_spec
from transformers import LlamaConfig, LlamaForCausalLM

from ftplatform.core.durations import in_words
from ftplatform.core.payload import PayloadResult
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.flops import model_flops
from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.figures import Meter, matrix_rate, mean_utilisation, open_meter, padding
from ftplatform.training.job import train
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.methods.tokens import PackedExamples
from ftplatform.training.progress_line import TimeLeft, sentence
from ftplatform.training.shards import Rows, read_shards

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=8, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
        )
    )  # fmt: skip


def counted(model: Any, rows: Rows) -> int:
    """FLOPs of a forward and backward pass, as torch counts them operator by operator (it does not know the CPU's flash
    attention).
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, LabelledLogits(model) as labelled:
        labelled.loss_sum(model, rows).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("share", [1, 4])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_formula_counts_what_torch_counts(kind: str, share: int) -> None:
    batch, length = 2, 128
    ids = torch.randint(2, 512, (batch, length), generator=torch.Generator().manual_seed(1))
    targets = torch.where(torch.arange(length) % share == 0, ids, -100)
    rows = Rows(ids, targets, torch.arange(length).expand(batch, length))
    model: Any = llama()
    shape = ModelShape.from_config(
        json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": ["LlamaForCausalLM"]}
    )
    setup = Setup(parameterisation=kind, lora=LoraConfig(rank=8, target_modules=TARGETS))  # type: ignore[arg-type]
    if kind == "lora":
        model = get_peft_model(model, PeftLora(r=8, target_modules=list(TARGETS)))
    said = model_flops(shape, setup, tokens=ids.numel(), labelled=rows.supervised, length=length)
    # Under LoRA nobody needs the gradient of the first block's input: that is the difference.
    assert said == pytest.approx(counted(model, rows), rel=0.03)


def test_lora_saves_a_third_of_the_weights_work_and_thin_logits_the_output_layers() -> None:
    shape = ModelShape.from_config({**llama().config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    full, none = Setup(parameterisation="full"), Setup(parameterisation="ia3")
    work = {"tokens": 100.0, "labelled": 100.0, "length": 1.0}
    attention = 12 * shape.layers * shape.query * 100
    assert model_flops(shape, full, **work) == 6 * shape.active * 100 + attention
    assert model_flops(shape, none, **work) == 4 * shape.active * 100 + attention
    head = shape.vocabulary * shape.hidden
    assert model_flops(shape, none, **work | {"labelled": 25.0}) == 4 * (shape.active * 100 - head * 75) + attention
    frozen = replace(full, frozen_layers=(0, 1))
    assert model_flops(shape, full, **work) - model_flops(shape, frozen, **work) == 2 * 2 * shape.block * 100


def packed_examples(folder: Path) -> PackedExamples:
    """Two rows: one full, one with a quarter of padding."""
    ids = torch.arange(2, 2 + 2 * LENGTH).reshape(2, LENGTH) % VOCABULARY
    positions = torch.arange(LENGTH).repeat(2, 1)
    pad = LENGTH // 4
    ids[1, -pad:], positions[1, -pad:] = 0, torch.arange(pad)
    labels = torch.where(positions > 0, ids, -100)
    labels[1, -pad:] = -100
    path = folder / "shard.safetensors"
    save_file({k: v.to(torch.int32).contiguous() for k, v in
               {"input_ids": ids, "labels": labels, "position_ids": positions}.items()}, path)  # fmt: skip
    return PackedExamples(read_shards([path], VOCABULARY, LENGTH))


def test_padding_is_no_token(tmp_path: Path) -> None:
    examples = packed_examples(tmp_path)
    assert padding(examples.rows.take(torch.tensor([0]))) == 0
    assert padding(examples.rows.take(torch.tensor([0, 1]))) == LENGTH // 4
    spec = tiny_spec(tmp_path / "job", batch_size=2)
    shape = ModelShape.from_config({**llama().config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    found = Meter(spec, examples, shape, peak=1e9).figures(1, 0.5, {})
    assert found["tokens_per_second"] == (2 * LENGTH - LENGTH // 4) / 0.5
    assert found["supervised_tokens_per_second"] == float(examples.labelled.sum()) / 0.5
    assert 0 < found["mfu"] < 1
    assert found["memory_gb"] > 0.1


def test_utilisation_is_of_the_catalogues_rate_times_the_processes(tmp_path: Path) -> None:
    spec, examples = tiny_spec(tmp_path / "job", batch_size=2), packed_examples(tmp_path)
    base = store_in(tmp_path / "job")[1].fetch_tree(spec.base_weights, tmp_path / "base")
    one = open_meter(spec.model_copy(update={"peak_tflops": 1e-3}), examples, base).figures(1, 1.0, {})["mfu"]
    two = open_meter(spec.model_copy(update={"peak_tflops": 1e-3, "processes": 2}), examples, base)
    assert two.figures(1, 1.0, {})["mfu"] == pytest.approx(one / 2, abs=1e-5)
    (base / "config.json").write_text('{"architectures": ["UnheardOf"]}')
    assert "mfu" not in open_meter(spec, examples, base).figures(1, 1.0, {})


def test_the_measured_rate_is_one_a_processor_can_have_and_draws_no_random_number() -> None:
    state = torch.random.get_rng_state()
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e14
    assert torch.equal(state, torch.random.get_rng_state())


def test_time_left_follows_the_last_steps_and_forgets_a_slow_start() -> None:
    left, now = TimeLeft(), 100.0
    assert left.seconds(99, 9.0, now) == 99 * 9.0
    for step in range(2, 11):
        now += 1.0
        said = left.seconds(100 - step, 1.0, now)
    assert said == 90.0
    now += 60.0
    assert left.seconds(89, 60.0, now) < 2 * 89
    for step in range(12, 80):
        now += 2.0
        said = left.seconds(100 - step, 2.0, now)
    assert said == pytest.approx(2.0 * 21, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (3.4, "3 s"),
        (89, "89 s"),
        (240, "4 min"),
        (5399, "1 h 30 min"),
        (7200, "2 h"),
        (200000, "2 d 8 h"),
        (172800, "2 d"),
    ],
)
def test_durations_are_told_in_two_figures(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_progress_line_reads_as_a_sentence() -> None:
    record = {"step": 40.0, "loss": 1.23456, "tokens_per_second": 5120.4, "mfu": 0.314}
    assert sentence(record, 120, 230.0) == "step 40 of 120: loss 1.2346, 5,120 tokens/s, MFU 31 %, about 4 min left"
    record |= {"step": 120.0, "mfu": 0.0123, "reward": 0.5}
    assert sentence(record, 120, 0.0) == "step 120 of 120: loss 1.2346, reward 0.500, 5,120 tokens/s, MFU 1.2 %"


def test_mean_utilisation_weighs_steps_by_their_time() -> None:
    assert mean_utilisation([{"mfu": 0.4, "seconds": 3.0}, {"mfu": 0.2, "seconds": 1.0}]) == {
        "mfu": pytest.approx(0.35)
    }
    assert mean_utilisation([{"seconds": 1.0}]) == {}


def test_a_training_tells_its_figures_per_step_and_a_profile_changes_no_bit_of_it(tmp_path: Path) -> None:
    plain, profiled = trained(tmp_path / "plain"), trained(tmp_path / "profiled", profile_steps=2)
    (result, lines, store), (traced, _, kept) = plain, profiled
    assert result.artifacts["weights"] == traced.artifacts["weights"]
    assert "profile" not in result.artifacts
    events = json.loads(gzip.decompress(kept.get_bytes(traced.artifacts["profile"])))["traceEvents"]
    assert any(event.get("name") == "aten::mm" for event in events)
    operators = json.loads(kept.get_bytes(traced.artifacts["operators"]))
    assert operators[0]["share"] >= operators[-1]["share"] > 0
    assert sum(row["calls"] for row in operators) > 10
    records = [json.loads(line) for line in store.get_bytes(result.artifacts["metrics"]).splitlines()]
    told = {
        "loss",
        "grad_norm",
        "learning_rate",
        "seconds",
        "tokens_per_second",
        "supervised_tokens_per_second",
        "mfu",
        "memory_gb",
    }
    assert len(records) == 6
    assert all(told <= set(record) for record in records)
    assert result.numbers["useful_seconds"] == pytest.approx(sum(record["seconds"] for record in records))
    assert 0 < result.numbers["mfu"] < 1
    steps = [line for line in lines if "eta_seconds" in line]
    assert steps[-1]["eta_seconds"] == 0
    assert " left" in steps[0]["message"]
    assert steps[0]["eta_seconds"] > 0


def trained(folder: Path, **training: Any) -> tuple[PayloadResult, list[dict[str, Any]], ObjectStore]:
    """Result, progress lines and store of a training in this process."""
    spec, place = tiny_spec(folder, **training), folder / "payload"
    place.mkdir()
    store = store_in(folder)[1]
    result = train(spec, PayloadIO(place), store)
    assert result.outcome == "done", result.message
    return result, [json.loads(line) for line in (place / "progress.jsonl").read_text().splitlines()], store
