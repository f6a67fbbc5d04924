"""Linears in 8 bits: what they compute, that they are off unless switched on, and where they are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from impasto.flux import fp8
from impasto.flux.fp8 import Fp8, Fp8Weight, linears, scaled
from impasto.flux.linear import Linear, Side, Up, attached
from impasto.flux.transformer import Flux

from .test_compiled import TINY, drawn


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rowwise", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_in_8_bits_is_the_product_of_what_its_8_bit_numbers_stand_for(rowwise: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(64, 48, bias=bias).requires_grad_(False)
    x = torch.randn(2, 32, 64) * torch.logspace(-2, 2, 32)[:, None]
    found = Fp8Weight.of(layer, rowwise=rowwise)(x)
    rows, scale = scaled(x.flatten(0, 1), rowwise=rowwise)
    weight, weight_scale = scaled(layer.weight, rowwise=rowwise)
    emulated = F.linear(rows.float() * scale, weight.float() * weight_scale, layer.bias).unflatten(0, (2, 32))
    assert found.shape == (2, 32, 48)
    assert found.dtype == x.dtype
    assert error(found, emulated) < 4e-3  # the result is rounded to bf16
    assert 0 < error(found, layer(x)) < 0.06


def test_scales_by_token_keep_small_tokens_that_one_scale_loses() -> None:
    x = torch.ones(2, 16) * torch.tensor([[1.0], [1e6]])
    for rowwise, kept in ((True, 1.0), (False, 0.0)):
        rows, scale = scaled(x, rowwise=rowwise)
        assert float((rows.float() * scale)[0].mean()) == pytest.approx(kept, abs=0.01)


def test_zeros_stay_zeros() -> None:
    rows, scale = scaled(torch.zeros(3, 16), rowwise=True)
    assert not rows.float().any()
    assert torch.isfinite(scale).all()


def test_a_model_draws_in_8_bits_only_while_that_is_on() -> None:
    torch.manual_seed(0)
    model = Flux(TINY).eval().requires_grad_(False)
    wanted = drawn(model, 64)
    quick = Fp8(model)
    assert torch.equal(drawn(model, 64), wanted)
    with quick.on():
        found = drawn(model, 64)
    assert 0 < error(found, wanted) < 0.1
    assert torch.equal(drawn(model, 64), wanted)
    with pytest.raises(KeyError), quick.on():
        raise KeyError
    assert torch.equal(drawn(model, 64), wanted)


def test_two_models_are_switched_apart() -> None:
    torch.manual_seed(0)
    one, other = (Flux(TINY).eval().requires_grad_(False) for _ in range(2))
    wanted = drawn(other, 64)
    switched, _ = Fp8(one), Fp8(other)
    with switched.on():
        assert torch.equal(drawn(other, 64), wanted)


def test_a_lora_works_on_top_of_8_bits() -> None:
    torch.manual_seed(0)
    model = Flux(TINY).eval().requires_grad_(False)
    name, layer = next(iter(linears(model)))
    up = Up(slice(0, layer.out_features), slice(0, 2), torch.randn(layer.out_features, 2))
    side = {name: Side(torch.randn(2, layer.in_features), (up,))}
    quick = Fp8(model)
    with attached(model, side):
        wanted = drawn(model, 64)
        with quick.on():
            assert 0 < error(drawn(model, 64), wanted) < 0.1


def test_only_the_linears_that_run_at_every_step_are_copied() -> None:
    names = {name for name, _ in linears(Flux(replace(TINY, depth=1, depth_single_blocks=1)))}
    streams = {f"double_blocks.0.{s}_{p}" for s in ("img", "txt") for p in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")}
    assert names == streams | {"single_blocks.0.linear1", "single_blocks.0.linear2"}


def test_a_cpu_is_told_that_it_gains_nothing() -> None:
    assert "only GPUs" in (fp8.obstacle(torch.device("cpu")) or "")
