"""Weights left as their files have them, mapped and not copied, and widened to fp32 where they are computed with.

Every bf16 number is an fp32 number, so a weight that is widened late has the bits of one that was loaded in fp32; what
differs is host memory: a model loaded in fp32 takes 4 bytes a weight that nothing can take back, 32 GB for 8 billion, and
mapped pages are the file's own. The kernel drops them when it needs room, and processes of one machine share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

from ftplatform.core.payload import TrainSpec
from ftplatform.core.strategies import divided_from_files

WIDENS = "widens_when_divided"
"""Attribute of a model: its weights are those of the file until ``fsdp.shard`` widens them, a block at a time."""


def blocks(model: Any) -> list[torch.nn.Module]:
    """The decoder blocks of ``model`` (PEFT's wrapping allowed), in order; empty where its family does not name them."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(plain, "_no_split_modules", None) or ())
    # A sharded block's class is a subclass named FSDP..., made on the fly.
    return [module for module in plain.modules() if type(module).__name__.removeprefix("FSDP") in names]


@contextmanager
def as_stored() -> Iterator[None]:
    """Inside, ``from_pretrained`` with ``dtype=torch.float32`` maps every weight in the type of its file.

    Buffers, and weights that the files lack, are fp32. Asked for by the file's type, transformers would also round buffers
    that are computed (the scale of Gemma's embeddings). It asks this method for the type of each weight by its name, and
    takes None for "as it is"; the method is not public, which the exact pin pays for.
    """
    with patch.object(PreTrainedModel, "_get_dtype_plan", lambda self, dtype: {"*": None}):
        yield


def widen(modules: Iterable[torch.nn.Module], device: torch.device | None = None) -> None:
    """Make the weights of ``modules`` (not of those inside them) fp32, in place, on ``device`` if one is given."""
    for module in modules:
        for parameter in module.parameters(recurse=False):
            if _narrow(parameter):
                # In two steps: in one, the host would widen and the bus would carry twice as much.
                placed = parameter.data if device is None else parameter.data.to(device)
                parameter.data = placed.float()


def compute_in_fp32(model: Any) -> Any:
    """Let ``model``, loaded ``as_stored``, answer in fp32: ``model`` itself, frozen, before any adapter is put on.

    What lies outside of the blocks (embeddings, the last norm, heads) is widened for good; a block's weights are widened
    when it is entered and are the file's again when it is left. Memory holds the embeddings and one block in fp32; the cost
    is that every forward pass widens every block, about what a pass over a few tokens takes itself.
    """
    model.requires_grad_(False)
    inside: set[torch.nn.Module] = set()
    for block in blocks(model):
        if block not in inside:
            inside.update(block.modules())
            _widen_while_computing(block)
    widen(module for module in model.modules() if module not in inside)
    return model


def stays_stored(spec: TrainSpec) -> bool:
    """Whether the training leaves its weights as stored until they are divided."""
    training = spec.training
    return divided_from_files(spec.parameterisation, training.weights, training.qat, training.precision, spec.strategy)


def _narrow(parameter: torch.nn.Parameter) -> bool:
    return bool(parameter.is_floating_point()) and parameter.dtype != torch.float32


def _widen_while_computing(block: torch.nn.Module) -> None:
    places = [
        (module, name, parameter)
        for module in block.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and _narrow(parameter)
    ]

    def enter(*call: Any) -> None:
        for module, name, parameter in places:
            module._parameters[name] = torch.nn.Parameter(parameter.float(), requires_grad=False)

    def leave(*call: Any) -> None:
        for module, name, parameter in places:
            module._parameters[name] = parameter

    block.register_forward_pre_hook(enter)
    block.register_forward_hook(leave, always_call=True)
