"""Linears of the blocks in 8-bit floating point (e4m3), beside the exact ones: for requests that allow it.

Weights are scaled once, by output channel; activations by token at each step ("dynamic"): each gets the full range of
the format. Where the GPU scales by tensor only (Ada), one scale serves all. Modulation, embedders and the last layer
stay as they are: they cost nothing and are sensitive. Sums are kept in 32 bits, results come out in 16.

In: a model. Out: an `Fp8`, whose `on` is a context; outside of it the model draws exactly what it drew before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from impasto.flux.linear import Linear, Switch
from impasto.flux.transformer import Flux

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max
_MULTIPLE = 16
"""Rows and columns of a weight must be multiples of it: the tensor cores take them so."""


def obstacle(device: torch.device) -> str | None:
    """Why `device` cannot multiply in 8 bits; None: it can, and gains by it."""
    if device.type != "cuda":
        return "only GPUs multiply in 8 bits"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} does not multiply in 8 bits: that came with Ada and Hopper"
    return None


def by_token(device: torch.device) -> bool:
    """Whether scales may differ by row there, or one has to serve the whole tensor."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """A linear's weight in 8 bits: `weight` [out, in], `scale` [1, out] or [] so that weight * scale is about what it
    was. As a function: x [..., in] → [..., out] in bf16.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Linear, *, rowwise: bool) -> Fp8Weight:
        weight, scale = scaled(layer.weight, rowwise=rowwise)
        bias = cast("Tensor | None", layer.bias)
        bias = None if bias is None else bias.to(torch.bfloat16)
        return cls(weight, scale.reshape(1, -1) if rowwise else scale, bias)

    def __call__(self, x: Tensor) -> Tensor:
        rows, scale = scaled(x.flatten(0, -2), rowwise=self.scale.dim() > 0)
        # The one door to the tensor cores' 8 bits: public in all but name, and what torchao goes through.
        product = cast("Callable[..., Tensor]", torch._scaled_mm)  # pyright: ignore
        out = product(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=self.bias, out_dtype=torch.bfloat16
        )
        return out.unflatten(0, x.shape[:-1]).to(x.dtype)


def scaled(x: Tensor, *, rowwise: bool) -> tuple[Tensor, Tensor]:
    """`x` [N, K] in 8 bits and the float32 scale [N, 1], or [], that gives it back."""
    largest = x.abs().amax(dim=-1, keepdim=True) if rowwise else x.abs().amax()
    scale = largest.float().clamp(min=1e-12) / _LARGEST
    return (x / scale).clamp(-_LARGEST, _LARGEST).to(FORMAT), scale


class Fp8:
    """Copies in 8 bits of the blocks' linears of one model, and the switch that all of them follow."""

    def __init__(self, model: Flux, *, rowwise: bool | None = None) -> None:
        self._switch = Switch()
        device = next(model.parameters()).device
        rowwise = by_token(device) if rowwise is None else rowwise
        for _, layer in linears(model):
            layer.quick, layer.switch = Fp8Weight.of(layer, rowwise=rowwise), self._switch

    @contextmanager
    def on(self) -> Generator[None]:
        """Within, the model multiplies in 8 bits. The model is used by one thread at a time."""
        self._switch.on = True
        try:
            yield
        finally:
            self._switch.on = False


def linears(model: Flux) -> Iterator[tuple[str, Linear]]:
    """The layers that are worth it, by name: those of the blocks that run at every step."""
    for name, layer in model.named_modules():
        if not isinstance(layer, Linear) or "_blocks." not in name or "mod" in name.split(".", 2)[2]:
            continue
        if layer.in_features % _MULTIPLE == 0 and layer.out_features % _MULTIPLE == 0:
            yield name, layer
