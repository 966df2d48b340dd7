"""A divided model made whole for a moment: for saving in the ordinary format, and for loading from it.

One checkpoint format serves every strategy, so a training resumes under another one or on another number of GPUs. It costs
host memory on rank 0: the whole weights while they are saved, and the optimizer's states twice as much again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from ftplatform.training.distributed import fsdp, zero


def whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """All of a weight, on every process; every process has to call. Trained weights of DeepSpeed come in fp32."""
    if isinstance(parameter, DTensor):
        return parameter.full_tensor().detach()
    return zero.whole(parameter)


@contextmanager
def plain(model: Any, *, here: bool = True, keep: bool = False) -> Iterator[dict[int, torch.nn.Parameter]]:
    """Inside, ``model`` has whole weights in host memory where ``here`` is true; all processes have to enter.

    An adapter's frozen base is left divided: neither its checkpoint nor its result holds it. With ``keep`` what the block
    wrote into the weights, the same on all, is cut and kept. Yields the whole weights by the id of the divided ones.
    """
    fsdp.reshard(model)
    adapter = hasattr(model, "peft_config")
    made: dict[int, torch.nn.Parameter] = {}
    seen: set[int] = set()
    places: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or (adapter and not parameter.requires_grad):
                continue
            places.append((module, name, parameter))
            # A tied weight stands in two places and is gathered once, on every process.
            if id(parameter) not in seen:
                seen.add(id(parameter))
                value = whole(parameter)
                if here:
                    made[id(parameter)] = torch.nn.Parameter(value.cpu().clone(), parameter.requires_grad)
    # FSDP2 takes what ``load_state_dict`` leaves in a module for a weight of its own kind.
    hooks = {module: module._load_state_dict_post_hooks for module, _, _ in places} if here else {}
    for module, name, parameter in places if here else ():
        module._parameters[name] = made[id(parameter)]
        module._load_state_dict_post_hooks = OrderedDict()
    try:
        yield made
    finally:
        for module, kept in hooks.items():
            module._load_state_dict_post_hooks = kept
        for module, name, parameter in places if here else ():
            module._parameters[name] = parameter
    if keep:
        for parameter in {id(p): p for _, _, p in places}.values():
            write(parameter, made[id(parameter)].detach())


def read_weights(model: Any, folder: Path) -> bool:
    """Load full weights from a checkpoint one by one: mapped from its files, every process keeps its part of each.

    False, and nothing is done, where names and shapes do not say which file's tensor belongs where: an adapter's, or those of
    a family that transformers stores otherwise than it computes. ``plain`` serves those, with the memory of every process
    for all weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if hasattr(model, "peft_config") or not files:
        return False
    named = dict(model.named_parameters(remove_duplicate=False))
    shapes: dict[str, list[int]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    fitting = {id(named[name]) for name, shape in shapes.items() if name in named and shape == _shape(named[name])}
    if not shapes.keys() <= named.keys() or fitting != {id(parameter) for parameter in named.values()}:
        return False
    fsdp.reshard(model)
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                value, parameter = opened.get_tensor(name), named[name]
                # DeepSpeed's own copy of a trained weight is fp32.
                write(parameter, value.float() if parameter.requires_grad else value)
    return True


def _shape(parameter: torch.nn.Parameter) -> list[int]:
    return list(getattr(parameter, "ds_shape", parameter.shape))


@torch.no_grad()
def write(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Put this process's part of ``value``, the same on all, into a divided weight; every process has to call."""
    if isinstance(parameter, DTensor):
        parameter.copy_(fsdp.cut(value, parameter))
    else:
        zero.write(parameter, value)
        zero.write_master(parameter, value)
