"""Distilling the two passes of guidance into one, and many steps into few: what FLUX.1 [dev] and [schnell] are to their
undistilled parent.

The teacher is the model that the run starts from, frozen, and asked as the sampler asks it: with the prompt and
without, drawn apart by a scale. The student has an embedder for that scale (`guidance_in`) and learns to give the same
velocity in one pass (Meng et al. 2023). It begins as the teacher itself, so a short run suffices.

With `leaps` the student learns a schedule of that many steps: from each of its sigmas, the straight line to where the
teacher arrives at the next one by several steps of its own (progressive distillation, Salimans and Ho 2022). Its
teacher is best one that has been distilled already, which takes half the passes.

A distilled model that has learned more data at scale 1, where it is what an undistilled one is, is its own teacher for
the scales above: it is asked twice then, at scale 1.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from impasto.flux import weights
from impasto.flux.models import Shift, TransformerParams
from impasto.flux.schedule import sigmas
from impasto.flux.transformer import Flux

STRIDES = 4
"""Steps of the teacher within one of the student's: with four leaps, 16 steps become four."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen model, guided by two passes or, for leaps, by its own embedder, and the scales that its student shall
    know.
    `workers`: threads that share a batch; its rows do not depend on each other, so their number changes nothing.
    `precision`: what each of them enters to compute.
    """

    model: Flux
    empty: tuple[Tensor, Tensor]
    scales: tuple[float, float]
    seed: int
    leaps: int = 0
    shift: Shift | None = None
    workers: int = 1
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext

    @classmethod
    def load(
        cls,
        start: Mapping[str, Tensor],
        params: TransformerParams,
        empty: tuple[Tensor, Tensor],
        scales: tuple[float, float],
        *,
        seed: int,
        leaps: int = 0,
        shift: Shift | None = None,
        workers: int = 1,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        device: str = "cpu",
    ) -> "Teacher":
        """The teacher of a student of the given shape: the weights in `start`, with a guidance embedder or without."""
        target = weights.Target(torch.device(device), torch.float32)
        shape = replace(params, guidance_embed="guidance_in.in_layer.weight" in start)
        model = weights.build(lambda: Flux(shape), start, name="the teacher", target=target)
        return cls(model, empty, scales, seed, leaps, shift, workers, precision)

    def teach(self, batch: tuple[Tensor, ...], img_ids: Tensor, txt_ids: Tensor, step: int) -> tuple[Tensor, ...]:
        """A batch (noisy, velocity, txt, vec, times) with the guided velocity in the velocity's place, and behind it
        the scale of every row [B]. With `leaps`, the rows are moved to sigmas of the student's schedule.
        """
        noisy, velocity, txt, vec, t = batch
        generator = torch.Generator().manual_seed(self.seed * 999_983 + step)
        low, high = self.scales
        scale = (low + (high - low) * torch.rand(len(noisy), generator=generator)).to(noisy.device)
        if self.leaps:
            grid = torch.tensor(sigmas(self.leaps, noisy.shape[1], self.shift))
            at = torch.randint(self.leaps, (len(noisy),), generator=generator)
            here, there = grid[at].to(noisy.device), grid[at + 1].to(noisy.device)
            noisy = noisy + (here - t)[:, None, None] * velocity
        else:
            here = there = t
        shares = [part.chunk(self.workers) for part in (noisy, here, there, txt, vec, scale)]
        straight = partial(self._straight, img_ids=img_ids, txt_ids=txt_ids)
        with ThreadPoolExecutor(self.workers) as pool:
            taught = torch.cat(list(pool.map(straight, *shares)))
        return noisy, taught, txt, vec, here, scale

    @torch.no_grad()
    def _straight(
        self,
        begin: Tensor,
        here: Tensor,
        there: Tensor,
        txt: Tensor,
        vec: Tensor,
        scale: Tensor,
        *,
        img_ids: Tensor,
        txt_ids: Tensor,
    ) -> Tensor:
        """The velocity that the student shall have at the sigmas `here` [B]: the teacher's, or, with leaps, that of the
        straight line to where the teacher arrives at `there` [B].
        """
        with self.precision():
            guided = partial(self._guided, img_ids=img_ids, txt=txt, txt_ids=txt_ids, vec=vec, scale=scale)
            if not self.leaps:
                return guided(begin, here)
            x, stride = begin, (there - here) / STRIDES
            for count in range(STRIDES):
                x = x + stride[:, None, None] * guided(x, here + count * stride)
            return (x - begin) / (there - here)[:, None, None]

    def _guided(
        self, x: Tensor, t: Tensor, *, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, vec: Tensor, scale: Tensor
    ) -> Tensor:
        """The velocity at the rows' scales [B], by as many passes as the teacher needs."""
        embeds = self.model.guidance_in is not None
        if embeds and self.leaps:
            return self.model(x, img_ids, txt, txt_ids, t, vec, scale).float()
        one = torch.ones_like(scale) if embeds else None
        prompted = self.model(x, img_ids, txt, txt_ids, t, vec, one).float()
        plain_txt, plain_vec = (part.expand(len(x), *part.shape[1:]).to(x) for part in self.empty)
        plain = self.model(x, img_ids, plain_txt, txt_ids, t, plain_vec, one).float()
        return plain + scale[:, None, None] * (prompted - plain)
