"""LoRA layers on the CPU as one operation: the update is added into the projection's own output, and back likewise.

PEFT computes projection, copy, update, scaling and sum one after the other, each over all tokens, and autograd keeps
what each of them needs. Unsloth fuses them on a GPU (unsloth/kernels/fast_lora.py); this is the same for its CPU
backend, and goes when that has it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

_ADAPTER = "default"


class _FusedLora(torch.autograd.Function):
    """y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ over rows x, W frozen. Only x and x·Aᵀ are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Any, a: Any, b: Any, layer: Any, scaling: float) -> Any:  # type: ignore[override]
        a, b = a.to(x.dtype), b.to(x.dtype)
        y = _projected(layer, x)
        h = x @ a.t()
        y.addmm_(h, b.t(), alpha=scaling)
        ctx.save_for_backward(x, h, a, b)
        ctx.layer, ctx.scaling = layer, scaling
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, h, a, b = ctx.saved_tensors
        dh = (g @ b).mul_(ctx.scaling)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = g @ _weight(ctx.layer, g.dtype)
            dx.addmm_(dh, a)
        da = dh.t() @ x
        db = (g.t() @ h).mul_(ctx.scaling)
        return dx, da.float(), db.float(), None, None


def _projected(layer: Any, x: Any) -> Any:
    """The frozen projection of `x`, in its dtype; weights may be in another, which autocast would see to elsewhere."""
    if hasattr(layer.weight, "quant_state"):
        return layer(x)
    bias = layer.bias.to(x.dtype) if layer.bias is not None else None
    return torch.nn.functional.linear(x, layer.weight.to(x.dtype), bias)


def _weight(layer: Any, dtype: torch.dtype) -> Any:
    """The frozen weight in `dtype`, dequantised where it is stored in 4 bits."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return layer.weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.view(-1, 1), state).to(dtype)


def fuse_lora(model: Any) -> int:
    """Let the plain LoRA layers of `model` compute so; returns how many. Others (DoRA, dropout, biases) stay PEFT's."""
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward_of(layer.forward), layer)
    return len(layers)


def _is_plain(module: Any) -> bool:
    a, base = module.lora_A, module.get_base_layer()
    return (
        isinstance(base, torch.nn.Linear)
        and base.weight.device.type == "cpu"
        and not any(parameter.requires_grad for parameter in base.parameters())
        and list(a) == [_ADAPTER]
        and not module.lora_variant
        and not module.lora_bias[_ADAPTER]
        and isinstance(module.lora_dropout[_ADAPTER], torch.nn.Identity)
    )


def _forward_of(original: Any) -> Any:
    def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        plain = not (args or kwargs or self.disable_adapters or self.merged) and self.active_adapters == [_ADAPTER]
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if not plain or not torch.is_grad_enabled() or not (autocast or self.lora_A[_ADAPTER].weight.dtype == dtype):
            return original(x, *args, **kwargs)
        a, b = self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        with torch.autocast("cpu", enabled=False):
            y = _FusedLora.apply(rows, a, b, self.get_base_layer(), self.scaling[_ADAPTER])
        return y.view(*x.shape[:-1], -1)

    return forward
