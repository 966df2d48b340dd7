"""FSDP2's optimizer states in the ordinary format: torch's ``state_dict`` over whole weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ftplatform.training.distributed.fsdp import cut


def whole_state(optimizer: Any, *, here: bool) -> dict[str, Any]:
    """``optimizer.state_dict()`` with whole tensors in host memory where ``here`` is true; every process has to call."""
    saved = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for number in sorted(saved["state"]):
        values = {}
        for name, value in saved["state"][number].items():
            value = value.full_tensor() if isinstance(value, DTensor) else value
            values[name] = value.cpu() if here and isinstance(value, torch.Tensor) else value
        if here:
            state[number] = values
    return {"state": state, "param_groups": saved["param_groups"]}


def load_state(optimizer: Any, saved: dict[str, Any]) -> None:
    """Load what ``whole_state`` or any undivided optimizer gave; each process keeps its part."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            name: cut(value, parameters[number]) if _like(value, parameters[number]) else value
            for name, value in values.items()
        }
        for number, values in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": state})


def _like(value: Any, parameter: torch.nn.Parameter) -> bool:
    return isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape
