"""Step caching: steps that would do nearly what the step before did take over most of its work.

The blocks behind the first one are what costs, and from one step to the next their common change to the image tokens
moves little. So each step computes the first block; when that block's own change is close to what it was at the last
whole step, the rest's change of then is added and the rest is left out (first-block cache: ParaAttention, and
diffusers' FirstBlockCacheConfig). That changes the picture a little, so nobody gets it unasked.

In: a `Threshold`. Out: a `StepCache` for one sample, whose `velocity` stands for `Flux.velocity`. A sample's decisions
come from its own tokens alone; the rows of its guidance pair are reused together or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from impasto.flux.transformer import Flux, Modulations

FEWEST_STEPS = 9
"""Under so many steps no two are alike enough: models that draw in four gain nothing (see docs/speed.md)."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """When a step is close enough: the first block's change moved by less than `change` of its size (mean of absolute
    values), fewer than `in_a_row` steps have been reused since the last whole one, and the first `settled` of all steps
    are over: they decide what the picture shows.
    """

    change: float
    in_a_row: int = 3
    settled: float = 0.2

    def __post_init__(self) -> None:
        if self.change <= 0 or self.in_a_row < 1 or not 0 <= self.settled <= 1:
            raise ValueError(f"a step cache needs a change above 0, a step in a row, a share of the steps; not {self}")


class StepCache:
    """What one sample of `steps` steps keeps of its last whole step."""

    def __init__(self, threshold: Threshold, *, steps: int) -> None:
        self._threshold = threshold
        self._whole_first = max(1, math.ceil(threshold.settled * steps))
        self._step = 0
        self.reused = False
        """Whether the last step left the rest out."""
        self._row = 0
        self._first: Tensor | None = None
        self._rest: Tensor | None = None

    def velocity(self, model: Flux, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations, *, drawn: int) -> Tensor:
        """As `Flux.velocity`. Of the image tokens the first `drawn` are the picture's own; the others never change,
        so they have no say in how much the step moved.
        """
        tokens = model.tokens(img)
        began, words = model.first(tokens, txt, pe, mods)
        change = (began - tokens)[:, :drawn]
        rest = self._close(change)
        self.reused = rest is not None
        self._step += 1
        if rest is None:
            done = model.rest(began, words, pe, mods)
            self._first, self._rest, self._row = change, done - began, 0
        else:
            done = began + rest
            self._row += 1
        return model.last(done, mods)

    def forget(self) -> None:
        """The next step is a whole one."""
        self.reused, self._row, self._first, self._rest = False, 0, None, None

    def _close(self, change: Tensor) -> Tensor | None:
        """The rest's kept change, when this step may take it over. Waits for the device: the host has to know."""
        full_row = self._row >= self._threshold.in_a_row
        if self._first is None or self._rest is None or full_row or self._step < self._whole_first:
            return None
        moved = (change - self._first).float().abs().mean(dim=(1, 2))
        size = self._first.float().abs().mean(dim=(1, 2))
        return self._rest if bool((moved < self._threshold.change * size).all()) else None
