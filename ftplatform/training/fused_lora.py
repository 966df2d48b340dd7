"""LoRA's layer as one operation: y = x W' + b + s (x A') B', where ' transposes.

PEFT computes the two thin products, the scaling and the sum as operations of their own, and autograd keeps and moves a
tensor of the output's size for each of them. Here the thin products are added into the output of the wide one, and the
backward pass is written out. On a small model on a CPU that is 5 to 10 % of a step
(docs/decisions/2026-11-22-training-loop.md).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.autograd.function import once_differentiable

from ftplatform.core.errors import InvalidConfig

ADAPTER = "default"


class _LoraProduct(torch.autograd.Function):
    """``x`` [n, in], ``weight`` [out, in] and ``bias`` [out] frozen, ``a`` [r, in], ``b`` [out, r]; [n, out]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        inner = x @ a.T
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        return torch.nn.functional.linear(x, weight, bias).addmm_(inner, b.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        grad_inner = (grad @ b).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_inner, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_inner.T @ x, (grad.T @ inner).mul_(ctx.scale), None


class FusedLora(Linear):
    """PEFT's layer with this forward while its one adapter is at work; otherwise PEFT's own."""

    def forward(self, x: torch.Tensor, *args: Any, **rest: Any) -> torch.Tensor:
        base, a, b = self.base_layer, self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        kind = x.device.type
        computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.weight.dtype
        mixed = not torch.is_autocast_enabled(kind) and not x.dtype == a.dtype == computed
        if args or rest or mixed or self.disable_adapters or self.merged or self.active_adapters != [ADAPTER]:
            return super().forward(x, *args, **rest)
        bias = None if base.bias is None else base.bias.to(computed)
        out: torch.Tensor = _LoraProduct.apply(
            x.flatten(0, -2).to(computed), base.weight.to(computed), bias, a.to(computed), b.to(computed),
            self.scaling[ADAPTER],
        )  # fmt: skip
        return out.unflatten(0, x.shape[:-1])


def _fits(layer: Any) -> bool:
    """Whether ``layer`` is plain LoRA on a frozen, unquantized linear layer."""
    if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear or set(layer.lora_A) != {ADAPTER}:
        return False
    plain = not layer.lora_variant and not layer.fan_in_fan_out and layer.lora_B[ADAPTER].bias is None
    steady = getattr(layer.lora_dropout[ADAPTER], "p", 0.0) == 0.0
    return plain and steady and not layer.base_layer.weight.requires_grad


def fuse_lora(model: Any, strategy: str) -> int:
    """Give every LoRA layer of ``model`` that it fits the fused forward; returns their number.

    Left as they are: layers with dropout, DoRA or another variant, on quantized weights; and all under ZeRO-3, which hands
    weights to a module when it is called, and the inner modules are not called here.

    Raises:
        InvalidConfig: it did not engage.
    """
    if strategy in ("zero3", "offload"):
        return 0
    layers = [module for module in model.modules() if _fits(module)]
    for layer in layers:
        layer.__class__ = FusedLora
    if any(type(layer).forward is not FusedLora.forward for layer in layers):
        raise InvalidConfig(f"the fused LoRA layer did not engage on {type(model).__name__}")
    return len(layers)
