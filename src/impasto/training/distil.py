"""Distilling the two passes of guidance into one: what FLUX.1 [dev] is to its undistilled parent.

The teacher is the model that the run starts from, frozen, and asked as the sampler asks it: with the prompt and
without, drawn apart by a scale. The student has an embedder for that scale (`guidance_in`) and learns to give the same
velocity in one pass (Meng et al. 2023). It begins as the teacher itself, so a short run suffices.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from impasto.flux import weights
from impasto.flux.models import TransformerParams
from impasto.flux.transformer import Flux


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen model that is guided by two passes, and the scales that its student shall know."""

    model: Flux
    empty: tuple[Tensor, Tensor]
    scales: tuple[float, float]
    seed: int

    @classmethod
    def load(
        cls,
        start: Path,
        params: TransformerParams,
        empty: tuple[Tensor, Tensor],
        scales: tuple[float, float],
        *,
        seed: int,
        device: str = "cpu",
    ) -> "Teacher":
        """The teacher of a student of the given shape: the weights in `start`, without a guidance embedder."""
        target = weights.Target(torch.device(device), torch.float32)
        shape = replace(params, guidance_embed=False)
        return cls(
            weights.build(lambda: Flux(shape), weights.read(start), name=str(start), target=target), empty, scales, seed
        )

    @torch.no_grad()
    def teach(self, batch: tuple[Tensor, ...], img_ids: Tensor, txt_ids: Tensor, step: int) -> tuple[Tensor, ...]:
        """A batch (noisy, velocity, txt, vec, times) with the guided velocity in the velocity's place, and behind it
        the scale of every row [B].
        """
        noisy, _, txt, vec, t = batch
        generator = torch.Generator().manual_seed(self.seed * 999_983 + step)
        low, high = self.scales
        scale = (low + (high - low) * torch.rand(len(noisy), generator=generator)).to(noisy.device)
        prompted = self.model(noisy, img_ids, txt, txt_ids, t, vec).float()
        empty = (part.expand(len(noisy), *part.shape[1:]).to(noisy) for part in self.empty)
        plain_txt, plain_vec = empty
        plain = self.model(noisy, img_ids, plain_txt, txt_ids, t, plain_vec).float()
        guided = plain + scale[:, None, None] * (prompted - plain)
        return noisy, guided, txt, vec, t, scale
