"""Weights in 8 bits, widened for each product: half the memory of bf16, in the dtype of the computation all the same.

In: a checkpoint's tensors, and how the weights of the blocks are to be held. Out: `Narrowed`, the same tensors with
each of these matrices in 8 bits and a scale for each of its rows beside it, and `narrowed`, the transformer that holds
them. Weights that are stored in fp8 are taken as they are: what they are widened to is to the bit what loading them
widened gives. Wider ones are rounded, symmetrically, each row by its own largest value. Embedders and the last layer,
half a per cent of FLUX.1, stay as wide as the computation.

A LoRA's side branches are added to the output of such a layer as to any other's: what is stored is never written to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux.linear import Linear
from impasto.flux.residency import Kept
from impasto.flux.stored import Shape, Tensors
from impasto.flux.transformer import Flux

SCALE = "weight_scale"
BLOCKS = ("double_blocks.", "single_blocks.")
LARGEST: Mapping[Kept, float] = {"int8": 127.0, "fp8": 448.0}
DTYPES: Mapping[Kept, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_AT_ONCE = 2**20
"""Weights that are rounded or, on a CPU, widened at a time: the float32 between is 4 MiB, not twice the matrix."""


class NarrowLinear(Linear):
    """A linear whose weight [out, in] is held in 8 bits. `weight_scale` [out, 1], float32, on top of each row."""

    def __init__(self, wide: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(wide.in_features, wide.out_features, bias="bias" in dict(wide.named_parameters()))
        self.weight = nn.Parameter(self.weight.to(dtype), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.ones(wide.out_features, 1), requires_grad=False)
        self.is_scaled = True

    def forward(self, input: Tensor) -> Tensor:
        weight = widened(self.weight, self.weight_scale if self.is_scaled else None, input.dtype)
        out = F.linear(input, weight, self.bias)
        return out if self.side is None else self.side.add_to(out, input)


def widened(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`weight` times `scale`, taken in float32 and rounded once to `dtype`."""
    wide = weight.to(dtype)
    if scale is None:
        return wide
    if weight.device.type != "cpu" or dtype == torch.float32:
        return wide.mul_(scale)
    rows = _rows(weight)
    for part, factor in zip(wide.split(rows), scale.split(rows), strict=True):
        part.mul_(factor)
    return wide


def rounded(weight: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """A matrix [out, in] in 8 bits, and the scale of each row [out, 1]: its largest value over the largest number."""
    largest, dtype = LARGEST[kept], DTYPES[kept]
    narrow, scales = torch.empty(weight.shape, dtype=dtype, device=weight.device), list[Tensor]()
    rows = _rows(weight)
    for part, place in zip(weight.split(rows), narrow.split(rows), strict=True):
        wide = part.float()
        scale = wide.abs().amax(1, keepdim=True) / largest
        scale[scale == 0] = 1.0  # a row of zeros
        wide = (wide / scale).clamp_(-largest, largest)
        place.copy_(wide.round_() if kept == "int8" else wide)
        scales.append(scale)
    return narrow, torch.cat(scales)


def _rows(weight: Tensor) -> int:
    return max(_AT_ONCE // weight.shape[1], 1)


def layers(tensors: Tensors, kept: Kept) -> frozenset[str]:
    """Keys of the weights that `kept` holds in 8 bits. Of a file that has fp8 weights, `fp8` takes these and leaves
    the others alone, so that nothing is rounded that its maker left wide.
    """
    if kept == "full":
        return frozenset()
    found = [key for key in tensors if is_matrix(key) and len(tensors.shape(key)) == 2]
    stored = [key for key in found if tensors.is_narrow(key)]
    return frozenset(stored if kept == "fp8" and stored else found)


def stored_as(tensors: Tensors) -> Kept:
    """How the file holds the blocks: "fp8" when most of their bytes are."""
    found = [key for key in tensors if is_matrix(key)]
    narrow = [key for key in found if tensors.is_narrow(key)]
    return "fp8" if 2 * len(narrow) > len(found) else "full"


def is_matrix(key: str) -> bool:
    """Whether the key, in BFL's dialect, is the weight of a linear in a block."""
    return key.startswith(BLOCKS) and key.endswith(".weight")


class Narrowed(Tensors):
    """`tensors` with `keys` in 8 bits and `X.weight_scale` behind each. Rounding is done on `device`."""

    def __init__(self, tensors: Tensors, keys: Iterable[str], kept: Kept, device: torch.device) -> None:
        self._tensors = tensors
        self._keys = frozenset(keys)
        self._kept: Kept = kept
        self._device = device
        self._order: dict[str, str | None] = {}  # key → the weight whose scale it is
        self._last: tuple[str, tuple[Tensor, Tensor]] | None = None
        for key in tensors:
            self._order[key] = None
            if key in self._keys:
                self._order[scale_of(key)] = key

    def __getitem__(self, key: str) -> Tensor:
        weight = self._order[key]
        if weight is not None:
            return self._pair(weight)[1]
        return self._pair(key)[0] if key in self._keys else self._tensors[key]

    def _pair(self, key: str) -> tuple[Tensor, Tensor]:
        if self._last is None or self._last[0] != key:
            self._last = None  # before the next is made: never two at a time
            stored = self._tensors.narrow(key) if self._kept == "fp8" else None
            self._last = key, stored or rounded(self._tensors[key].to(self._device), self._kept)
        return self._last[1]

    def _names(self) -> Mapping[str, object]:
        return self._order

    def keeps(self, key: str) -> bool:
        return key in self._keys or self._order[key] is not None

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        if key in self._keys:
            return self._kept == "fp8" and self._tensors.is_mapped(key, narrow=True)
        return self._order[key] is None and self._tensors.is_mapped(key)

    def shape(self, key: str) -> Shape:
        weight = self._order[key]
        return self._tensors.shape(key) if weight is None else (self._tensors.shape(weight)[0], 1)

    def size(self, key: str) -> int:
        weight = self._order[key]
        return self._tensors.size(key) if weight is None else 0

    def done(self, key: str) -> None:
        if self._order[key] is None:
            self._tensors.done(key)


def scale_of(key: str) -> str:
    return f"{key.removesuffix('weight')}{SCALE}"


def narrowed(model: Flux, keys: Iterable[str], kept: Kept) -> Flux:
    """`model`, made on the meta device, with the linears of `keys` in the dtype that they will have."""
    for key in keys:
        name = key.removesuffix(".weight")
        parent, _, leaf = name.rpartition(".")
        layer = NarrowLinear(cast("Linear", model.get_submodule(name)), DTYPES[kept])
        model.get_submodule(parent).register_module(leaf, layer)
    return model


def settle(model: Flux) -> None:
    """After loading: layers whose scales are all one need not multiply by them."""
    for layer in model.modules():
        if isinstance(layer, NarrowLinear):
            layer.is_scaled = bool((layer.weight_scale != 1).any())
