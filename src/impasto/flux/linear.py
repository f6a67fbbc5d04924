"""A linear layer that may have side branches: low-rank additions to its output, there for one request only.

The weight itself is never written to. So taking a branch away restores the layer bit for bit, and requests with
different LoRAs take their steps in turn on one copy of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Up:
    """The second half of a branch: rows `rows` of the output gain `weight` [n, r] times ranks `ranks` of the first."""

    rows: slice
    ranks: slice
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Side:
    """All branches of one layer. `down` [R, in]: their first halves in one matrix, so that the input is read once."""

    down: Tensor
    ups: tuple[Up, ...]

    def add_to(self, out: Tensor, x: Tensor) -> Tensor:
        ranks = F.linear(x, self.down)
        whole = slice(0, out.shape[-1])
        for up in self.ups:
            change = F.linear(ranks[..., up.ranks], up.weight)
            if up.rows == whole:
                out = out + change
            else:
                out[..., up.rows] += change
        return out


Sides = Mapping[str, Side]
"""By the name of the layer in its model."""


@dataclass(slots=True)
class Switch:
    """One for all layers of a model."""

    on: bool = False


class Linear(nn.Linear):
    """`nn.Linear`, and `side` on top of it when there is one. `quick` stands in for the weight while `switch` is on."""

    side: Side | None = None
    quick: Callable[[Tensor], Tensor] | None = None
    switch: Switch = Switch()

    def forward(self, input: Tensor) -> Tensor:
        if self.quick is not None and self.switch.on:
            out = self.quick(input)
        else:
            out = F.linear(input, self.weight, self.bias)
        return out if self.side is None else self.side.add_to(out, input)


@contextmanager
def attached(model: nn.Module, sides: Sides) -> Generator[None]:
    """Within, the named layers of `model` have these sides. The model is used by one thread at a time."""
    layers = [(cast("Linear", model.get_submodule(name)), side) for name, side in sides.items()]
    for layer, side in layers:
        layer.side = side
    try:
        yield
    finally:
        for layer, _ in layers:
            layer.side = None


def merged(weight: Tensor, side: Side) -> Tensor:
    """The one matrix that does what the layer and its branches do, in float32. For tests and for export."""
    out = weight.to(torch.float32, copy=True)
    for up in side.ups:
        out[up.rows] += up.weight.float() @ side.down[up.ranks].float()
    return out
