"""Sigmas and their shift by token count; one Euler step. Plain floats: a schedule is decided before any tensor exists.

A rectified flow runs in a straight line from noise (sigma 1) to the picture (sigma 0). Large pictures need more of
their steps near the noise, so the evenly spaced times are shifted: sigma = e^mu / (e^mu + 1/t - 1), mu growing with
the token count (Esser et al. 2024, section 5.3.2; the numbers are those of FLUX.1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from impasto.flux.models import Shift

RELEASE = 0.6
GENTLE = 0.5
"""Of `pull`; chosen by eye; measured by benchmarks/image_prompts.py."""


def time_shift(mu: float, t: float) -> float:
    """The exponential time shift of one time 0 <= t <= 1; 0 and 1 stay where they are."""
    if t <= 0.0:
        return 0.0
    return math.exp(mu) / (math.exp(mu) + (1.0 / t - 1.0))


def sigmas(steps: int, tokens: int, shift: Shift | None) -> tuple[float, ...]:
    """The `steps` + 1 sigmas of a schedule, from 1.0 down to 0.0.

    `tokens` counts the image tokens (packed latents) of the sample. `shift` None: evenly spaced (FLUX.1 schnell).
    Raises ValueError when `steps` is not positive.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, not {steps}")
    times = [1.0 - i / steps for i in range(steps)] + [0.0]
    if shift is None:
        return tuple(times)
    mu = shift.mu(tokens)
    return tuple(time_shift(mu, t) for t in times)


def remaining(sigmas: tuple[float, ...], strength: float) -> tuple[float, ...]:
    """The end of a schedule that image-to-image runs at `strength` 0..1: that share of the steps, rounded up, at least
    one. Counted as diffusers' FluxImg2ImgPipeline counts.
    """
    steps = len(sigmas) - 1
    skipped = int(max(steps - min(steps * strength, steps), 0))
    return sigmas[min(skipped, steps - 1) :]


def noised(picture: Tensor, noise: Tensor, *, sigma: float) -> Tensor:
    """The point between a picture's latents and the noise that the flow passes at `sigma`."""
    return sigma * noise + (1.0 - sigma) * picture


def pull(strength: float, sigma: float) -> float:
    """How far an image prompt draws the clean prediction to its picture at `sigma`: 0 not at all, 1 all the way.

    It works where a picture gets its layout and colours (high sigma) and lets go below a sigma that falls with
    `strength`, so that the model finishes the picture in its own hand and no double exposure remains.
    """
    release = RELEASE * (1.0 - strength)
    return strength**GENTLE if sigma > release else 0.0


def towards(target: Tensor, latents: Tensor, velocity: Tensor, *, sigma: float, weight: float) -> Tensor:
    """The velocity that leads to `weight` parts of `target` and the rest of where `velocity` leads."""
    return velocity + weight * ((latents - target) / sigma - velocity)


def euler(latents: Tensor, velocity: Tensor, *, sigma: float, sigma_next: float) -> Tensor:
    """One Euler step along the flow. `latents` stay float32 whatever the model computes in: the sum of many small
    steps would lose its small end in bf16.
    """
    return latents + (sigma_next - sigma) * velocity.float()


def clean(latents: Tensor, velocity: Tensor, *, sigma: float) -> Tensor:
    """Where the flow points from here: the picture (as latents) that this step's velocity leads to. For previews."""
    return latents - sigma * velocity.float()
