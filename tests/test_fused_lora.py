"""The fused LoRA layers against PEFT's own, in float32: same output, same gradients, to all three inputs."""

from __future__ import annotations

from typing import Any

import pytest

CASES = {
    "4 bits": {"four_bit": True},
    "plain": {},
    "with a bias": {"bias": True},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 32},
}


def _layer(*, four_bit: bool = False, bias: bool = False, **lora: Any) -> Any:
    import torch
    from bitsandbytes.nn.modules import Linear4bit
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 192, bias=bias)
    if four_bit:
        quantised = Linear4bit(128, 192, bias=bias, compute_dtype=torch.float32, quant_type="nf4")
        quantised.load_state_dict(linear.state_dict())
        linear = quantised.to("cpu")
        linear.support_avx512bf16_for_cpu = False
    model: Any = torch.nn.Sequential()
    model.add_module("projection", linear)
    adapted: Any = get_peft_model(model, LoraConfig(r=8, target_modules=["projection"], **lora))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def _step(model: Any) -> list[Any]:
    import torch

    torch.manual_seed(1)
    x = torch.randn(3, 7, 128, requires_grad=True)
    model.zero_grad()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_pefts(case: str) -> None:
    import torch

    from fastft.fused_lora import fuse_lora

    model = _layer(**CASES[case])
    before = _step(model)
    assert fuse_lora(model) == 1
    after = _step(model)
    assert len(before) == len(after) == 4
    for first, second in zip(before, after, strict=True):
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-4 * float(first.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_under_autocast_a_base_in_float32_works_too(case: str) -> None:
    import torch

    from fastft.fused_lora import fuse_lora

    model = _layer(**CASES[case])
    with torch.autocast("cpu", torch.bfloat16):
        before = _step(model)
        assert fuse_lora(model) == 1
        after = _step(model)
    for first, second in zip(before, after, strict=True):
        assert float((first.float() - second.float()).norm() / first.float().norm()) < 0.02


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}])
def test_what_is_more_than_a_plain_lora_stays_pefts(lora: dict[str, Any]) -> None:
    from fastft.fused_lora import fuse_lora

    assert fuse_lora(_layer(bias=True, **lora)) == 0


def test_a_bias_that_is_trained_stays_pefts() -> None:
    from fastft.fused_lora import fuse_lora

    model = _layer(bias=True)
    model.get_submodule("base_model.model.projection").get_base_layer().bias.requires_grad_(True)
    assert fuse_lora(model) == 0


def test_a_switched_off_adapter_is_off() -> None:
    import torch

    from fastft.fused_lora import fuse_lora

    model = _layer()
    fuse_lora(model)
    x = torch.randn(2, 128, requires_grad=True)
    with model.disable_adapter():
        alone = model(x)
    assert torch.equal(alone, torch.nn.functional.linear(x, model.get_submodule("base_model.model.projection").weight))
    assert not torch.equal(alone, model(x))
