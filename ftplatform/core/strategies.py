"""Which trainings a strategy can hold, and how many processes it wants. Without torch, for plan, launcher and payload alike."""

from __future__ import annotations

from ftplatform.core.methods import find_method
from ftplatform.core.recipe import Strategy

SHARDED: tuple[Strategy, ...] = ("fsdp2", "zero2", "zero3", "offload")
"""Strategies that cut optimizer states, and with them gradients or weights, over the processes."""
DEEPSPEED: tuple[Strategy, ...] = ("zero2", "zero3", "offload")
"""Strategies that DeepSpeed carries out; ``offload`` is ZeRO-3 with the optimizer's states in host memory."""


def strategy_allows(
    method: str, parameterisation: str, quantization: str, strategy: Strategy, optimizer: str = "adamw"
) -> str:
    """Why ``strategy`` cannot train this; empty when it can.

    Raises:
        InvalidConfig: no such method.
    """
    if strategy not in SHARDED:
        return ""
    info = find_method(method)
    if quantization != "none":
        return f"quantized weights are not cut into shards, so {strategy} cannot divide them: use ddp"
    if optimizer != "adamw":
        return f"8-bit and paged optimizers keep their states whole, and {strategy} needs to cut them: use ddp"
    if parameterisation in ("prefix", "prompt"):
        return f"{parameterisation} tuning trains too little for {strategy} to divide: use ddp or single"
    if info.generates:
        return (
            f"{method} generates answers, and processes that hold parts of one model and stop at different lengths would "
            f"wait for each other for ever under {strategy}: use ddp"
        )
    if info.reference and strategy in ("zero3", "offload"):
        return (
            f"{method} asks the starting model before the first step, when DeepSpeed's {strategy} cannot compute yet: "
            "use fsdp2 or ddp"
        )
    if not info.answers and strategy in ("zero3", "offload"):
        # "active_backward_submodules is empty during backward pass", DeepSpeed 0.19.8.
        return f"DeepSpeed's {strategy} loses count of a model with a head of its own, as {method} trains: use fsdp2 or zero2"
    return ""


def divided_from_files(parameterisation: str, weights: str, qat: str, precision: str, strategy: Strategy) -> bool:
    """Whether full weights stay as their files have them until they are divided, so that no process holds all of them.

    FSDP2 widens them to fp32 block by block; ZeRO-3 in bf16 makes them bf16 itself, weight by weight. Every other strategy has
    the whole model in every process.
    """
    if parameterisation != "full" or weights != "fp32" or qat != "none":
        return False
    return strategy == "fsdp2" or (strategy in ("zero3", "offload") and precision == "bf16")


def processes_wanted(strategy: Strategy, processes: int, nodes: int) -> str:
    """What is wrong with ``processes`` over ``nodes`` under ``strategy``; empty when nothing is."""
    if processes % nodes:
        return f"{processes} processes do not divide over {nodes} nodes: every node has the same number"
    if processes == 1 and strategy not in ("single", "offload"):
        return f"strategy {strategy} divides work over processes, and there is 1: accepted are single and offload"
    if processes > 1 and strategy == "single":
        return f"strategy single is for 1 process, and there are {processes}: accepted are ddp, {', '.join(SHARDED)}"
    return ""
