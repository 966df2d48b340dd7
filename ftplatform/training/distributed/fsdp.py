"""FSDP2: every decoder block, and the rest as a whole, cut along the first dimension of its weights.

torch's ``fully_shard`` is applied here and not by accelerate, which falls back to DDP on a CPU without a word; so one path
serves CPU and GPU, and the tests run what the GPUs run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ftplatform.core.errors import InvalidConfig
from ftplatform.training.stored import WIDENS, blocks, widen


def shard(model: Any, *, bf16: bool) -> None:
    """Cut ``model`` over all processes, in place; weights move to this process's device block by block.

    With ``bf16`` blocks compute on bf16 copies of the weights, and gradients are summed in fp32. Weights as stored become
    fp32 just before they are cut: of the whole, a process holds one block at a time, and last what lies outside of blocks.

    Raises:
        InvalidConfig: the model does not say what its blocks are, or has weights of another type than asked for.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),), mesh_dim_names=("shard",))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    place = torch.device(device, torch.cuda.current_device()) if device == "cuda" else None
    widens = getattr(model, WIDENS, False)
    for block in _blocks(model):
        if widens:
            widen(block.modules(), place)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if widens:
        widen(model.modules(), place)
        if narrow := [name for name, p in model.named_parameters() if p.dtype != torch.float32]:
            raise InvalidConfig(f"weights in fp32 were asked for; {narrow[0]} and {len(narrow) - 1} more are not")
    fully_shard(model, mesh=mesh, mp_policy=policy)


def reshard(model: Any) -> None:
    """Drop the whole weights that a forward pass without a backward pass leaves in the outermost module."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def check_sharded(model: Any) -> None:
    """Raises InvalidConfig: a block or weight of the live model that is not cut over all processes."""
    processes = torch.distributed.get_world_size()
    whole = [
        name for name, p in model.named_parameters() if not isinstance(p, DTensor) or p.device_mesh.size() != processes
    ]
    if whole:
        raise InvalidConfig(f"fsdp2 did not engage: {whole[:3]} and {len(whole) - 1} more weights are not sharded")
    if not all(isinstance(block, FSDPModule) for block in _blocks(model)):
        raise InvalidConfig(f"fsdp2 did not engage on every block of {type(model).__name__}")


def clip(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
    """Scale the gradients down to a global norm of at most ``limit``; returns the norm before (float scalar)."""
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    clip_grads_with_norm_(parameters, limit, norm)
    return norm


def cut(whole: torch.Tensor, like: DTensor) -> DTensor:
    """This process's part of ``whole``, laid out as ``like``; every process holds the same ``whole``, nothing is sent."""
    placed = whole.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def _blocks(model: Any) -> list[torch.nn.Module]:
    found = blocks(model)
    if not found:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        raise InvalidConfig(
            f"fsdp2 needs to know the blocks of {type(plain).__name__}, and it names none that it has: use zero3 or ddp"
        )
    return found
