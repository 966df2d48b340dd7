"""Strategies: what may run under which, how it is started, what is checked before, and that fsdp2 trains what one process trains."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed_support import assert_same_training, divided, figures, in_processes, undisturbed
from training_support import store_in, tiny_spec

from ftplatform.core.errors import InvalidConfig, PayloadFailed
from ftplatform.core.strategies import SHARDED, processes_wanted, strategy_allows
from ftplatform.launchers.torchrun import torchrun_command
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.distributed import fsdp, preflight
from ftplatform.training.distributed.engaged import check_processes, check_strategy
from ftplatform.training.distributed.loader import SHARE, WINDOW, LoaderAlarm
from ftplatform.training.distributed.passport import Passport, differences, missing
from ftplatform.training.distributed.whole import plain
from ftplatform.training.distributed.zero_config import deepspeed_config
from ftplatform.training.job import train
from ftplatform.training.methods.tokens import PackedExamples
from ftplatform.training.model import trainable_model


@pytest.fixture(autouse=True)
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def one_process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# What may run


@pytest.mark.parametrize("strategy", SHARDED)
def test_sharded_strategies_refuse_what_they_cannot_divide_and_say_what_can(strategy: Any) -> None:
    assert strategy_allows("sft", "lora", "none", strategy) == strategy_allows("sft", "full", "none", strategy) == ""
    for refused in (
        strategy_allows("sft", "lora", "nf4", strategy),
        strategy_allows("sft", "full", "none", strategy, "adamw_8bit"),
        strategy_allows("sft", "prompt", "none", strategy),
        strategy_allows("grpo", "lora", "none", strategy),
    ):
        assert "use ddp" in refused
    assert bool(strategy_allows("dpo", "lora", "none", strategy)) == (strategy in ("zero3", "offload"))
    assert bool(strategy_allows("reward", "full", "none", strategy)) == (strategy in ("zero3", "offload"))
    assert strategy_allows("grpo", "lora", "nf4", "ddp") == ""


def test_a_strategy_wants_its_number_of_processes() -> None:
    assert all(processes_wanted(one, 2, 1) == "" for one in ("ddp", *SHARDED))
    assert processes_wanted("single", 1, 1) == processes_wanted("offload", 1, 1) == ""
    assert "accepted are ddp" in processes_wanted("single", 2, 1)
    assert "accepted are single" in processes_wanted("fsdp2", 1, 1)
    assert "do not divide" in processes_wanted("ddp", 3, 2)


def test_the_payload_refuses_other_processes_than_the_spec_names(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    with pytest.raises(InvalidConfig, match="accepted are ddp"):
        check_processes(spec.model_copy(update={"processes": 2}))
    with pytest.raises(InvalidConfig, match="runs in 1"):
        check_processes(spec.model_copy(update={"processes": 2, "strategy": "ddp"}))


def test_a_strategy_that_did_not_engage_fails_the_job(tmp_path: Path, one_process_group: None) -> None:
    spec = tiny_spec(tmp_path)
    model = torch.nn.Linear(2, 2)
    check_strategy(spec, model, model)
    for strategy, said in (("ddp", "DistributedDataParallel"), ("fsdp2", "not sharded"), ("zero2", "ZeRO stage None")):
        with pytest.raises(InvalidConfig, match=said):
            check_strategy(spec.model_copy(update={"strategy": strategy}), model, model)
    with pytest.raises(InvalidConfig, match="names none"):
        fsdp.shard(model, bf16=False)


# How it is started


def test_deepspeed_gets_the_stage_the_batch_and_where_states_lie(tmp_path: Path) -> None:
    spec = divided(tiny_spec(tmp_path), "offload")
    config = deepspeed_config(spec)
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert config["train_batch_size"] == spec.training.batch_size == 4
    assert config["bf16"] == {"enabled": False}
    two = deepspeed_config(spec.model_copy(update={"strategy": "zero2"}))["zero_optimization"]
    assert (two["stage"], "offload_optimizer" in two) == (2, False)
    with pytest.raises(ValueError, match="zero2, zero3, offload"):
        deepspeed_config(spec.model_copy(update={"strategy": "fsdp2"}))


def test_a_node_is_started_by_torchrun_with_the_given_rendezvous(tmp_path: Path) -> None:
    spec, path = tiny_spec(tmp_path), tmp_path / "spec.json"
    payload = ["-m", "ftplatform.training", str(path)]
    assert torchrun_command(spec, "python", path) == ["python", *payload]
    alone = torchrun_command(spec.model_copy(update={"processes": 4, "strategy": "ddp"}), "python", path)
    assert alone[:6] == ["python", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    assert alone[-7:] == ["--nproc-per-node", "4", "--max-restarts", "0", *payload]
    several = spec.model_copy(update={"processes": 16, "nodes": 2, "strategy": "fsdp2"})
    second = torchrun_command(several, "python", path, node_rank=1, rendezvous="10.0.0.7:29400")
    said = dict(zip(second[3:-3:2], second[4:-3:2], strict=True))
    assert (said["--nnodes"], said["--node-rank"], said["--nproc-per-node"]) == ("2", "1", "8")
    assert (said["--rdzv-backend"], said["--rdzv-endpoint"]) == ("c10d", "10.0.0.7:29400")
    for wrong in ({"node_rank": 1}, {"node_rank": 2, "rendezvous": "10.0.0.7:29400"}):
        with pytest.raises(InvalidConfig):
            torchrun_command(several, "python", path, **wrong)  # type: ignore[arg-type]


# What is checked before


def _passport(rank: int, **changes: Any) -> Passport:
    return Passport(**{
        "rank": rank, "host": f"node{rank}", "device": "cpu", "backend": "gloo", "code": "c", "spec": "s", "torch": "2", **changes,
    })  # fmt: skip


def test_a_process_that_never_comes_is_named_with_where_to_look() -> None:
    with pytest.raises(
        PayloadFailed, match=r"rank 1, 2 did not join.*here: rank 0 on node0.*NCCL_SOCKET_IFNAME"
    ) as caught:
        preflight.check_in(dist.HashStore(), _passport(0), 3, seconds=0.2)
    assert caught.value.retry_helps
    assert missing([_passport(0), _passport(1)], 2) == ""


def test_processes_of_another_code_spec_or_time_are_refused_on_every_one_of_them() -> None:
    store, said = dist.HashStore(), {}

    def join(passport: Passport) -> None:
        try:
            preflight.check_in(store, passport, 2, seconds=20)
        except PayloadFailed as error:
            said[passport.rank] = str(error)

    other = threading.Thread(target=join, args=(_passport(1, spec="other"),))
    other.start()
    join(_passport(0))
    other.join()
    assert said[0] == said[1]
    assert "rank 1 on node1 (other) has another spec than rank 0 on node0 (s)" in said[0]
    same = [_passport(0), _passport(1)]
    assert differences(same, [0.0, 1.0]) == ""
    assert "clocks of node1" in differences(same, [0.0, 100.0])
    assert "another source code" in differences([_passport(0), _passport(1, code="d")], [0.0, 0.0])
    one_gpu = [_passport(rank, host="n", device="cuda:0 H100") for rank in range(2)]
    assert "several processes use one GPU" in differences(one_gpu, [0.0, 0.0])


def test_a_sum_that_hangs_or_comes_back_wrong_is_a_sentence(
    one_process_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preflight.check_sum(0, 1, [_passport(0)]) >= 0
    with pytest.raises(PayloadFailed, match=r"did not end within 0.05 s.*rank 0 on node0.*firewall"):
        preflight.in_time(lambda: time.sleep(1), "summing", [_passport(0)], seconds=0.05)
    monkeypatch.setattr(dist, "all_reduce", lambda numbers: numbers.add_(1))
    with pytest.raises(PayloadFailed, match=r"expected was 1\.0"):
        preflight.check_sum(0, 1, [_passport(0)])


# While it runs


def test_the_alarm_speaks_once_when_waiting_is_a_habit() -> None:
    lines: list[str] = []
    alarm = LoaderAlarm(lines.append)
    assert alarm.note(0.9, 1.0) == 0.9
    for _ in range(WINDOW):
        alarm.note(0.0, 1.0)
    assert lines == []
    for _ in range(2 * WINDOW):
        alarm.note(2 * SHARE, 1.0)
    assert len(lines) == 1
    assert "slower than the training" in lines[0]


def test_a_slow_dataset_shows_in_every_step_and_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = PackedExamples.collate

    def slow(self: PackedExamples, units: list[int]) -> Any:
        time.sleep(0.1)
        return quick(self, units)

    monkeypatch.setattr(PackedExamples, "collate", slow)
    spec = tiny_spec(tmp_path, steps=WINDOW + 2)
    place = tmp_path / "attempt"
    place.mkdir()
    result = train(
        spec.model_copy(update={"micro_batch": 4, "accumulation": 1}), PayloadIO(place), store_in(tmp_path)[1]
    )
    shares = [one["data_wait_share"] for one in figures(tmp_path, result)]
    assert len(shares) == WINDOW + 2
    assert sum(shares) / len(shares) > SHARE
    messages = [json.loads(line)["message"] for line in (place / "progress.jsonl").read_text().splitlines()]
    assert sum("slower than the training" in message for message in messages) == 1


def test_a_bf16_base_with_fp32_adapters_computes_in_blocks_and_becomes_whole_again(
    tmp_path: Path, one_process_group: None
) -> None:
    spec = tiny_spec(tmp_path)
    model = trainable_model(spec, store_in(tmp_path)[1].fetch_tree(spec.base_weights, tmp_path / "b"))
    for parameter in model.parameters():
        parameter.data = parameter.data if parameter.requires_grad else parameter.data.bfloat16()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fsdp.shard(model, bf16=True)
    fsdp.check_sharded(model)
    model(input_ids=torch.arange(8)[None]).logits.float().sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert grads
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)
    name = next(one for one in before if "lora_B" in one)
    with plain(model, keep=True):
        assert type(model.get_parameter(name)) is torch.nn.Parameter
        model.load_state_dict({name: torch.full_like(before[name], 3.0)}, strict=False)
    fsdp.check_sharded(model)
    after = {name: p.full_tensor() for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    assert torch.equal(after[name], torch.full_like(after[name], 3.0))
    assert all(torch.equal(after[other], before[other]) for other in before if other != name)


def test_fsdp2_trains_in_two_processes_what_one_process_trains(tmp_path: Path) -> None:
    alone = undisturbed(tmp_path, "lora")
    together = in_processes(tmp_path, divided(alone.spec, "fsdp2"))
    assert_same_training(tmp_path, alone, together)
    assert any("2 processes on" in message for message in together.messages)
