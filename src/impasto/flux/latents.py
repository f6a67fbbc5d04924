"""Seeded noise, packing of latents into tokens and back, and the position ids of both streams.

Latents are [B, C, height / 8, width / 8]; the transformer sees 2x2 patches of them as tokens [B, L, 4 C] with L =
height / 16 * width / 16. Heights and widths here are native pixels and multiples of 16.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

DOWNSCALE = 8
"""Pixels a side that one latent covers, in every FLUX autoencoder."""

PATCH = 2
"""Latents a side that one token covers."""


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of a request with `seed`.

    `seed` is 0 <= seed < 2**64. Sample 0 keeps the request's own seed, so it starts from the noise that
    `torch.manual_seed(seed)` would give. The others are hashed, not counted up: with seed + index, requests with
    neighbouring seeds would share pictures.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def noise(seed: int, index: int, height: int, width: int, channels: int) -> Tensor:
    """Gaussian noise [1, `channels`, height / 8, width / 8], float32, drawn on the CPU so that every device starts
    alike.

    It depends on nothing but its arguments: not on the number of samples in the request nor on what else runs.
    """
    _check_size(height, width)
    generator = torch.Generator().manual_seed(sample_seed(seed, index))
    return torch.randn(1, channels, height // DOWNSCALE, width // DOWNSCALE, generator=generator, dtype=torch.float32)


def token_count(height: int, width: int) -> int:
    """Image tokens of a picture of that native size."""
    _check_size(height, width)
    return (height // (DOWNSCALE * PATCH)) * (width // (DOWNSCALE * PATCH))


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] → [B, H/2 * W/2, 4 C]; the channels of a token run (c, row, column), as in BFL's checkpoints."""
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // PATCH) * (w // PATCH), c * PATCH * PATCH)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for a picture of `height` x `width` native pixels: [B, L, 4 C] → [B, C, height/8,
    width/8].
    """
    _check_size(height, width)
    b, _, d = tokens.shape
    h, w, c = height // (DOWNSCALE * PATCH), width // (DOWNSCALE * PATCH), d // (PATCH * PATCH)
    patches = tokens.reshape(b, h, w, c, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h * PATCH, w * PATCH)


def image_ids(height: int, width: int) -> Tensor:
    """Positions [L, 3] of the image tokens of a picture of that native size: (0, row, column), float32."""
    _check_size(height, width)
    h, w = height // (DOWNSCALE * PATCH), width // (DOWNSCALE * PATCH)
    ids = torch.zeros(h, w, 3)
    ids[..., 1] = torch.arange(h)[:, None]
    ids[..., 2] = torch.arange(w)[None, :]
    return ids.reshape(h * w, 3)


def text_ids(tokens: int) -> Tensor:
    """Positions [L, 3] of the text tokens: all at the origin, as FLUX was trained."""
    return torch.zeros(tokens, 3)


def _check_size(height: int, width: int) -> None:
    side = DOWNSCALE * PATCH
    if height < side or width < side or height % side or width % side:
        raise ValueError(f"a native size must be positive multiples of {side}, not {width}x{height}")
