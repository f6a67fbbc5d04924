"""Batched sampling for the sheets and metrics of a training run.

The product's pipeline draws one sample at a time, for determinism; here many prompts share a batch, for speed. Noise,
schedule and guidance are the pipeline's own.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from impasto.flux.latents import image_ids, noise, pack, text_ids, token_count, unpack
from impasto.flux.models import Shift
from impasto.flux.schedule import euler, sigmas
from impasto.flux.transformer import Flux
from impasto.training.sprites import Pixels


@torch.no_grad()
def sample(
    model: Flux,
    states: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    *,
    width: int,
    height: int,
    shift: Shift | None,
    steps: int = 20,
    guidance: float = 3.5,
    seed: int = 1,
    bf16: bool = True,
) -> Tensor:
    """Latents [B, 16, height/8, width/8] for prompts' states (txt [B, T, 384], vec [B, 384]), guided away from
    `empty`, or by the model itself when it embeds its guidance.
    """
    device = next(model.parameters()).device
    txt, vec = (part.to(device, torch.float32) for part in states)
    bare, plain = (part.to(device, torch.float32) for part in empty)
    count = len(txt)
    x = torch.cat([pack(noise(seed, i, height, width, 16)) for i in range(count)]).to(device)
    ids, txt_ids = image_ids(height, width).to(device), text_ids(txt.shape[1]).to(device)
    twice = model.guidance_in is None
    if twice:
        txt, vec = torch.cat([txt, bare.expand(count, -1, -1)]), torch.cat([vec, plain.expand(count, -1)])
    scale = None if twice else torch.full((count,), guidance, device=device)
    for here, there in pairwise(sigmas(steps, token_count(height, width), shift)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            seen = torch.cat([x, x]) if twice else x
            velocity = model(seen, ids, txt, txt_ids, torch.full((len(seen),), here, device=device), vec, scale).float()
        if twice:
            with_text, without = velocity.chunk(2)
            velocity = without + guidance * (with_text - without)
        x = euler(x, velocity, sigma=here, sigma_next=there)
    return unpack(x, height, width).cpu()


def to_pixels(decoded: Tensor) -> list[Pixels]:
    """Decoded pictures [B, 3, H, W], about -1..1, to uint8 (H, W, 3) each."""
    clipped = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(clipped.permute(0, 2, 3, 1).cpu().numpy())


def sheet(pictures: Sequence[Pixels], captions: Sequence[str], *, columns: int = 6, factor: int = 1) -> Image.Image:
    """Pictures of one size in a grid, each with its caption under it."""
    height, width = pictures[0].shape[0] * factor, pictures[0].shape[1] * factor
    band = 26
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (width + 4), rows * (height + band)), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        left, top = (i % columns) * (width + 4), (i // columns) * (height + band)
        page.paste(
            Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BICUBIC),
            (left, top),
        )
        pen.multiline_text((left + 2, top + height + 1), _wrap(text, width // 6), fill="black", font_size=10, spacing=1)
    return page


def _wrap(text: str, columns: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > columns:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])
