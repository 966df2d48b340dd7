from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training_support import LENGTH, VOCABULARY, store_in, tiny_shard, tiny_spec
from transformers import AutoModelForCausalLM

from ftplatform.core.errors import DataRefused, InvalidConfig
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.recipe import LoraConfig
from ftplatform.store.payload_io import PayloadIO, fence_name
from ftplatform.training.job import train
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.model import load_base
from ftplatform.training.shards import IGNORED, RowOrder, ShardRows, read_shards


@pytest.fixture(autouse=True)
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(spec: TrainSpec, folder: Path, number: int = 1) -> PayloadResult:
    place = folder / f"attempt{number}"
    place.mkdir()
    (place / "attempt.json").write_text(json.dumps({"attempt": number}))
    return train(spec, PayloadIO(place), store_in(folder)[1])


def changed(spec: TrainSpec, **fields: Any) -> TrainSpec:
    return spec.model_copy(update=fields)


@torch.no_grad()
def test_the_loss_of_a_packed_row_is_that_of_its_documents_alone(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    store = store_in(tmp_path)[1]
    model = load_base(store.fetch_tree(spec.base_weights, tmp_path / "b"))
    row = read_shards([store.path(spec.shards["train"][0])], VOCABULARY, LENGTH).take(torch.arange(2))
    with LabelledLogits(model) as labelled:
        packed = float(labelled.loss_sum(model, row))
    alone, half = 0.0, LENGTH // 2
    for ids, targets in zip(row.input_ids.reshape(-1, half), row.targets.reshape(-1, half), strict=True):
        logits = model(input_ids=ids[None]).logits[0]
        alone += float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"))
    assert packed == pytest.approx(alone, rel=1e-5)


def test_the_first_token_of_a_document_is_never_a_target_of_the_one_before(tmp_path: Path) -> None:
    ids = torch.arange(2, 10, dtype=torch.int32)[None]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], dtype=torch.int32)
    save_file({"input_ids": ids, "labels": ids.clone(), "position_ids": positions}, tmp_path / "s")
    targets = read_shards([tmp_path / "s"], VOCABULARY, LENGTH).take(torch.tensor([0])).targets
    assert targets.tolist() == [[3, 4, 5, IGNORED, 7, 8, 9, IGNORED]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("labels"), "lacks labels"),
        (lambda t: t.update(labels=torch.full_like(t["labels"], IGNORED)), "nothing to learn"),
        (lambda t: t.update(input_ids=t["input_ids"] + VOCABULARY), "another tokenizer"),
        (lambda t: t.update(labels=t["labels"][:, 1:].contiguous()), "shapes"),
    ],
)
def test_a_shard_that_cannot_be_trained_on_is_refused_with_the_reason(tmp_path: Path, change: Any, said: str) -> None:
    tiny_spec(tmp_path)
    tensors = load_file(tmp_path / "shard-0.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "changed")
    with pytest.raises(DataRefused, match=said):
        read_shards([tmp_path / "changed"], VOCABULARY, LENGTH)


def test_every_epoch_shows_every_row_once_in_an_order_of_its_own() -> None:
    order = RowOrder(rows=10, batch=4, seed=3)
    places = torch.cat([order.of_step(step) for step in range(5)]).tolist()
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert places[:10] != places[10:]
    assert torch.cat([RowOrder(10, 4, 3).of_step(step) for step in (4, 1)]).tolist() == places[16:] + places[4:8]


def test_a_lora_adapter_loads_answers_as_fingerprinted_and_names_no_place(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    result = run(spec, tmp_path)
    assert (result.outcome, result.numbers["steps"]) == ("done", 6)
    assert result.numbers["tokens"] == 6 * 4 * LENGTH
    assert result.numbers["supervised_tokens"] == 6 * 4 * LENGTH // 2
    store = store_in(tmp_path)[1]
    adapter = store.fetch_tree(result.artifacts["weights"], tmp_path / "adapter")
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert str(tmp_path) not in (adapter / "adapter_config.json").read_text()
    proof = store.get_json(result.artifacts["fingerprint"])
    row = read_shards([store.path(spec.shards["train"][0])], VOCABULARY, LENGTH).take(torch.tensor([0]))
    assert proof["prompt_ids"] == row.input_ids[0, :16].tolist()
    base = AutoModelForCausalLM.from_pretrained(store.fetch_tree(spec.base_weights, tmp_path / "again"))
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    ids = torch.tensor([proof["prompt_ids"] + proof["token_ids"]])
    scores = model(input_ids=ids).logits[0].log_softmax(-1)[15:-1]
    again = scores.gather(1, ids[0, 16:, None]).flatten()
    assert again.tolist() == pytest.approx(proof["logprobs"], abs=1e-4)
    metrics = [json.loads(line) for line in store.get_bytes(result.artifacts["metrics"]).splitlines()]
    assert [one["step"] for one in metrics] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second", "memory_gb"} <= set(metrics[0])
    assert metrics[-1]["eval_loss"] == result.numbers["eval_loss"]


def test_full_weights_are_a_whole_model_folder_with_the_tokenizer_of_the_base(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, kind="full")
    result = run(spec, tmp_path)
    folder = store_in(tmp_path)[1].fetch_tree(result.artifacts["weights"], tmp_path / "full")
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.attention_dropout == 0.0
    base = load_file(tmp_path / "base" / "model.safetensors")
    tuned = load_file(folder / "model.safetensors")
    assert base.keys() == tuned.keys()
    assert all(not torch.equal(base[name], tuned[name]) for name in base)


def test_the_split_into_micro_batches_does_not_change_the_training(tmp_path: Path) -> None:
    """Rows with unequal numbers of labels: a mean of micro-batch means would differ."""
    spec = tiny_spec(tmp_path, kind="full", steps=3, dropout=0.0)
    tensors = load_file(tmp_path / "shard-0.safetensors")
    for row in range(0, 24, 2):
        tensors["labels"][row, : LENGTH - 3] = IGNORED
    save_file(tensors, tmp_path / "uneven")
    store = store_in(tmp_path)[1]
    spec = changed(spec, shards={"train": (store.put_file(tmp_path / "uneven"),)})
    weights = []
    for number, (micro, accumulation) in enumerate([(4, 1), (1, 4)], start=1):
        one = changed(spec, key=str(number) * 64, micro_batch=micro, accumulation=accumulation)
        tree = run(one, tmp_path, number).artifacts["weights"]
        weights.append(load_file(store.fetch_tree(tree, tmp_path / f"w{number}") / "model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-5, rtol=1e-4)


def test_what_was_asked_for_engages_or_the_job_fails(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    no_such = LoraConfig(rank=4, target_modules=("q_proj", "query_key_value"))
    with pytest.raises(InvalidConfig, match="query_key_value"):
        run(changed(spec, lora=no_such), tmp_path, 1)
    with pytest.raises(InvalidConfig, match="sequences a step; the recipe asks for 4"):
        run(changed(spec, micro_batch=1), tmp_path, 2)
    if not torch.cuda.is_available():
        with pytest.raises(InvalidConfig, match="bf16"):
            run(changed(spec, training=spec.training.model_copy(update={"precision": "bf16"})), tmp_path, 3)


def test_a_newer_attempt_shuts_an_older_one_out(tmp_path: Path) -> None:
    spec, store = tiny_spec(tmp_path), store_in(tmp_path)[1]
    store.put_doc(fence_name(spec.key), {"token": 2})
    result = run(spec, tmp_path, 1)
    assert (result.outcome, result.artifacts) == ("fenced", {})
    assert store.list_docs("checkpoints") == []
    assert run(spec, tmp_path, 2).outcome == "done"


def test_a_fence_raised_while_training_keeps_the_next_commit_out_and_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = tiny_spec(tmp_path, checkpoint_every=2), store_in(tmp_path)[1]
    monkeypatch.setattr(
        PayloadIO, "heartbeat", lambda io, silent_for=0.0: store.put_doc(fence_name(spec.key), {"token": 2})
    )
    result = run(spec, tmp_path, 1)
    assert result.outcome == "fenced"
    assert 2 <= result.numbers["steps"] <= 6, "the commit is under way while the next steps are made"
    assert store.list_docs("checkpoints") == []


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    spec, store = tiny_spec(tmp_path, steps=6, checkpoint_every=2, keep_checkpoints=2), store_in(tmp_path)[1]
    whole = run(spec, tmp_path, 1)
    names = store.list_docs(f"checkpoints/{spec.key}")
    assert [int(name[-8:]) for name in names] == [4, 6]
    tree = store.tree(store.get_doc(names[-1])["tree"])
    older = {file.digest for file in store.tree(store.get_doc(names[0])["tree"]).files}
    victim = next(file.digest for file in tree.files if file.digest not in older and file.path.endswith("optimizer.pt"))
    path = next((tmp_path / "store").rglob(victim))
    path.write_bytes(path.read_bytes()[:-1])
    again = run(spec, tmp_path, 2)
    assert again.resumed_from == 4
    assert again.artifacts["weights"] == whole.artifacts["weights"]
    assert "damaged and passed over" in (tmp_path / "attempt2" / "progress.jsonl").read_text()


def test_another_seed_is_another_training_and_the_same_seed_is_the_same(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    other = spec.training.model_copy(update={"seed": 18})
    digests = [
        run(changed(spec, key=str(n) * 64, training=config), tmp_path, n).artifacts["weights"]
        for n, config in enumerate([spec.training, spec.training, other], start=1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_padding_rows_and_documents_do_not_see_each_other() -> None:
    from ftplatform.training.shards import document_mask

    mask = document_mask(torch.tensor([[0, 1, 0, 1]]))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_rows_know_their_supervised_positions(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    store = store_in(tmp_path)[1]
    rows: ShardRows = read_shards([store.path(tiny_shard(store, tmp_path, rows=3))], VOCABULARY, spec.max_length)
    assert rows.supervised == 3 * LENGTH // 2
    assert rows.labelled.tolist() == [LENGTH // 2] * 3


def test_rows_of_several_files_are_those_of_one_file_with_all_of_them(tmp_path: Path) -> None:
    tiny_spec(tmp_path)
    whole = load_file(tmp_path / "shard-0.safetensors")
    paths = []
    for number, (start, end) in enumerate([(0, 5), (5, 6), (6, 24)]):
        paths.append(tmp_path / f"part{number}")
        save_file({name: tensor[start:end].contiguous() for name, tensor in whole.items()}, paths[-1])
    one = read_shards([tmp_path / "shard-0.safetensors"], VOCABULARY, LENGTH)
    several = read_shards(paths, VOCABULARY, LENGTH)
    index = torch.tensor([23, 0, 5, 4, 6, 5])
    assert len(several) == 24
    for name in ("input_ids", "targets", "position_ids"):
        assert torch.equal(getattr(one.take(index), name), getattr(several.take(index), name))
    assert torch.equal(one.labelled, several.labelled)
    assert one.take(index).input_ids.tolist() == whole["input_ids"][index].tolist()


def test_files_with_rows_of_different_lengths_are_refused(tmp_path: Path) -> None:
    tiny_spec(tmp_path)
    tensors = load_file(tmp_path / "shard-0.safetensors")
    save_file({name: tensor[:, :16].contiguous() for name, tensor in tensors.items()}, tmp_path / "short")
    with pytest.raises(DataRefused, match="one length"):
        read_shards([tmp_path / "shard-0.safetensors", tmp_path / "short"], VOCABULARY, LENGTH)
