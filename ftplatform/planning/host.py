"""Host memory of a job on its fullest node, rank 0's: what loading, training, saving and the proof need there, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftplatform.core.strategies import divided_from_files
from ftplatform.planning.memory import GB, MASTER_BYTES, Layout
from ftplatform.planning.setup import STATE_BYTES, Setup, trained_parameters
from ftplatform.planning.shapes import ModelShape

_GRADIENTS = 4 + 4
"""Bytes per weight that offload keeps beside the states: fp32 gradients as they add up, and those handed to the optimizer."""
_PAGED = {"paged_adamw_8bit": STATE_BYTES["adamw_8bit"], "paged_adamw_32bit": STATE_BYTES["adamw"]}


@dataclass(frozen=True, slots=True)
class HostNeed:
    gb: float
    what: str
    """What it is for; the end of "needs ... GB of host memory"."""


def host_need(shape: ModelShape, setup: Setup, layout: Layout, nodes: int = 1) -> HostNeed:
    """The most that any of the phases needs.

    - Loading: full weights are read whole by every process, in the type they are trained in, unless they are divided straight from
      the mapped files (``divided_from_files``). Mapped pages can be taken back and do not count.
    - Training: what offload (fp32 weights, two moments, gradients) and paged optimizers keep in host memory.
    - Saving: beside that, rank 0 gathers first the whole weights in fp32, lets them go, then the optimizer's states
      (``training/distributed/whole.py``).
    - The proof, on rank 0: the embeddings and one block in fp32; the rest is mapped.
    """
    trained, here = trained_parameters(setup, shape), math.ceil(layout.gpus / nodes)
    kept = 2 if setup.full and setup.weights == "bf16" else 4
    resident = trained * _PAGED.get(setup.optimizer, 0.0) * here
    said = "for the states of the paged optimizer, and a copy of the weights or states while they are saved"
    if layout.strategy == "offload":
        resident = trained * (MASTER_BYTES + STATE_BYTES["adamw"] + _GRADIENTS) * here / layout.gpus
        said = "for the states and gradients that offload keeps there, and a copy of the states while they are saved"
    copies = trained * max(4.0, STATE_BYTES[setup.optimizer])
    needs = [
        HostNeed((resident + copies) / GB, said if resident else "to save the weights and the optimizer's states"),
    ]
    divided = divided_from_files(setup.parameterisation, setup.weights, setup.qat, setup.precision, layout.strategy)
    if setup.full and not divided:
        which = "bf16" if kept == 2 else "fp32"
        needs.append(
            HostNeed(shape.parameters * kept * here / GB, f"to load the {which} weights in each of its processes")
        )
    needs.append(
        HostNeed(4 * (shape.embeddings + shape.block) / GB, "to prove the result, with embeddings and a block in fp32")
    )
    return max(needs, key=lambda need: need.gb)
