"""DeepSpeed's ZeRO: weights and optimizer states gathered from its flat partitions, and put back into them.

deepspeed is imported when it is first needed: that takes seconds, and few trainings use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import TrainSpec
from ftplatform.training.distributed.zero_config import deepspeed_config

STATES = ("exp_avg", "exp_avg_sq")
"""AdamW's, shaped as the weights."""
_CHANGING = ("lr", "initial_lr")
"""Options of a parameter group that the schedule changes or adds, the same in every group."""


def _deepspeed() -> Any:
    return import_module("deepspeed")


def open_deepspeed() -> None:
    """Put DeepSpeed on the process group; to be called before a model is divided."""
    deepspeed = _deepspeed()
    # On a CPU DeepSpeed would compile collectives of its own at the first training, which takes minutes and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        # A single process with offload: accelerate opens a group for several only.
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False)


def partition(model: Any, config: dict[str, Any]) -> None:
    """Cut ``model`` for ZeRO-3, weight by weight, before any process would have to hold all of it on its GPU."""
    if config["bf16"]["enabled"]:
        # Weights alone: rotary frequencies and other buffers stay in fp32.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    _deepspeed().zero.Init(module=model, config_dict_or_path=config)


def check_zero(engine: Any, spec: TrainSpec) -> None:
    """Raises InvalidConfig: the live engine has another stage, or keeps its optimizer elsewhere, than was asked for."""
    strategy, wanted = spec.strategy, deepspeed_config(spec)["zero_optimization"]
    stage = getattr(engine, "zero_optimization_stage", lambda: None)()
    if stage != wanted["stage"]:
        raise InvalidConfig(f"{strategy} did not engage: {type(engine).__name__} has ZeRO stage {stage}")
    device = engine.zero_offload_optimizer()
    found = str(getattr(device, "device", "none") if device else "none").rpartition(".")[2]
    if found != wanted.get("offload_optimizer", {}).get("device", "none"):
        raise InvalidConfig(f"{strategy} did not engage: the engine keeps optimizer states on {found!r}")
    if stage == 3 and (left := [name for name, p in engine.module.named_parameters() if not hasattr(p, "ds_id")]):
        raise InvalidConfig(
            f"{strategy} did not engage: {left[:3]} and {len(left) - 1} more weights are not partitioned"
        )


def whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """All of a weight on every process: fp32 where it is trained and the engine is up."""
    if hasattr(parameter, "_z3_optimizer") or hasattr(parameter, "_hp_mapping"):
        found = _deepspeed().utils.safe_get_full_fp32_param(parameter)
        if found is not None:
            return found.detach()
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    with _deepspeed().zero.GatheredParameters([parameter]):
        value = parameter.detach().clone()
    return value.float() if parameter.requires_grad else value


def write(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Rank 0's ``value`` becomes the weight that computes; the engine's fp32 copy is ``write_master``'s."""
    if not hasattr(parameter, "ds_id"):
        parameter.copy_(value)
        return
    with _deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.copy_(value)


def write_master(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """``value`` fp32, the same on every process, becomes the weight that the optimizer changes; nothing without an engine."""
    if parameter.requires_grad and (hasattr(parameter, "_z3_optimizer") or hasattr(parameter, "_hp_mapping")):
        _deepspeed().utils.safe_set_full_fp32_param(parameter, value)


def optimizer_state(engine: Any, groups: list[dict[str, Any]], *, here: bool) -> dict[str, Any]:
    """``state_dict`` of the AdamW over whole weights that these partitions stand for; every process has to call.

    ``groups`` are the parameter groups as the optimizer was made of them; DeepSpeed drops empty ones and adds options of
    its own. The result is complete where ``here`` is true.
    """
    inner = engine.optimizer.optimizer
    _link_states(engine.optimizer)
    step = next(state["step"] for state in inner.state.values() if "step" in state)
    rates = {name: inner.param_groups[0][name] for name in _CHANGING if name in inner.param_groups[0]}
    state: dict[int, dict[str, torch.Tensor]] = {}
    described, number = [], 0
    for group in groups:
        numbers = list(range(number, number + len(group["params"])))
        number += len(numbers)
        described.append({**group, **rates, "params": numbers})
        for index, parameter in zip(numbers, group["params"], strict=True):
            values = {name: _deepspeed().utils.safe_get_full_optimizer_state(parameter, name) for name in STATES}
            if here:
                shaped = {name: value.reshape(_shape(parameter)).cpu().clone() for name, value in values.items()}
                state[index] = {"step": step.detach().cpu().clone(), **shaped}
    return {"state": state, "param_groups": described}


def load_optimizer_state(engine: Any, groups: list[dict[str, Any]], saved: dict[str, Any]) -> None:
    """Put ``saved``, an AdamW's ``state_dict`` over whole weights, into the engine's partitions."""
    outer, inner = engine.optimizer, engine.optimizer.optimizer
    flats = getattr(outer, "fp32_partitioned_groups_flat", None) or outer.single_partition_of_fp32_groups
    step = next(iter(saved["state"].values()))["step"]
    for flat in flats:
        inner.state[flat] = {"step": step.clone()} | {name: torch.zeros_like(flat) for name in STATES}
    _link_states(outer)
    rates = {name: saved["param_groups"][0][name] for name in _CHANGING if name in saved["param_groups"][0]}
    for options in inner.param_groups:
        options.update(rates)
    for index, parameter in enumerate(parameter for group in groups for parameter in group["params"]):
        for name in STATES:
            _deepspeed().utils.safe_set_full_optimizer_state(
                parameter, saved["state"][index][name].to(flats[0].device), name
            )


def _link_states(optimizer: Any) -> None:
    """ZeRO-2 finds a weight's states by links that it makes in its first step, before all groups but the first have any."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
