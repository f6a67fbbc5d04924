"""Making the autoencoder: a closed-form encoder (`pca`), and a decoder trained on it.

What comes in: sprites and a recipe. What goes out: a checkpoint that a later call resumes, and its quality. The
encoder is done in a second, so the latents never change again: the transformer can be trained while the decoder still
improves. Small crops come first, because a step costs a quarter and the convolutions do not mind; whole pictures
follow.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.flux import weights
from impasto.flux.autoencoder import Autoencoder, Decoder
from impasto.flux.models import AutoencoderParams
from impasto.training.clock import Deadline, Every, Pace
from impasto.training.compose import Mix
from impasto.training.optimise import Average, load_state, rate, save_state
from impasto.training.pca import BLOCK, BlockPCA, fit, read, write
from impasto.training.records import draw_record, paint_record
from impasto.training.sprites import Sprites

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AutoencoderRecipe:
    """What one run of the autoencoder's training needs to know; `crop_share` of the run uses crops of `crop` pixels.
    `side`: the longest of whole pictures. `pool`: so many pictures of each size are painted before the first step, for
    a device that is faster than a core paints; 0: each step paints its own.
    """

    params: AutoencoderParams
    batch: int = 16
    crop: int = 64
    crop_share: float = 0.6
    rate: float = 1e-3
    decay_share: float = 0.4
    gradient_weight: float = 0.5
    noise: float = 0.05
    whitening: float = 0.5
    average: float = 0.998
    seed: int = 7
    bf16: bool = True
    side: int = 128
    pool: int = 0
    mix: Mix = field(default_factory=Mix)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of the pictures that it learns from."""
        return (self.side, self.side), (self.side, 3 * self.side // 4)


def pixels_of(batch: list[np.ndarray]) -> Tensor:
    """uint8 pictures (H, W, 3) of one size to a tensor [B, 3, H, W] in -1..1, channels last."""
    stacked = torch.from_numpy(np.stack(batch))
    return (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def training_batch(recipe: AutoencoderRecipe, sprites: Sprites, step: int, *, crops: bool) -> Tensor:
    """The batch of a step, a function of the recipe's seed and the step alone, so that a resumed run sees the same."""
    rng = np.random.default_rng((recipe.seed, step))
    count = recipe.batch if crops else max(1, recipe.batch // 4)
    width, height = recipe.sizes[0 if rng.random() < 0.5 else 1]
    pictures: list[np.ndarray] = []
    for _ in range(count):
        picture = paint_record(draw_record(rng, recipe.mix), sprites, width=width, height=height)
        if crops:
            rows, columns = window(rng, recipe.crop, height, width)
            picture = picture[rows, columns]
        pictures.append(picture)
    return pixels_of(pictures)


def window(rng: np.random.Generator, crop: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a crop that begins where a block does."""
    top = BLOCK * int(rng.integers((height - crop) // BLOCK + 1))
    left = BLOCK * int(rng.integers((width - crop) // BLOCK + 1))
    return slice(top, top + crop), slice(left, left + crop)


def pooled_batch(recipe: AutoencoderRecipe, pool: Sequence[Tensor], step: int, *, crops: bool) -> Tensor:
    """As `training_batch`, from pictures [N, 3, H, W] uint8 that were painted before, on their device."""
    rng = np.random.default_rng((recipe.seed, step))
    pictures = pool[int(rng.integers(len(pool)))]
    count, height, width = len(pictures), *pictures.shape[-2:]
    chosen = [pictures[row] for row in rng.integers(count, size=recipe.batch if crops else max(1, recipe.batch // 4))]
    if crops:
        chosen = [picture[:, *window(rng, recipe.crop, height, width)] for picture in chosen]
    return (torch.stack(chosen).float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def block_transform(recipe: AutoencoderRecipe, sprites: Sprites, folder: Path, start: Path | None = None) -> BlockPCA:
    """The run's block transform: fitted once, then read from the folder, so that the latents never move. A run that
    starts from a checkpoint's file has the transform of that checkpoint.
    """
    path = folder / "pca.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        found = fit_encoder(recipe, sprites) if start is None else read(started(recipe, start).encoder, recipe.params)
        found.save(path)
    return BlockPCA.load(path)


def started(recipe: AutoencoderRecipe, start: Path) -> Autoencoder:
    """The autoencoder of a checkpoint's file, float32."""
    model = Autoencoder(recipe.params)
    model.load_state_dict({key: tensor.float() for key, tensor in weights.read(start).items()})
    return model


def reconstruction_loss(decoder: Decoder, latents: Tensor, pixels: Tensor, gradient_weight: float) -> Tensor:
    """L1 of pixels, plus the weighted L1 of their differences along both axes."""
    rebuilt = decoder(latents).float()
    loss = F.l1_loss(rebuilt, pixels)
    for ours, theirs in zip(_slopes(rebuilt), _slopes(pixels), strict=True):
        loss = loss + gradient_weight * F.l1_loss(ours, theirs)
    return loss


def sample_pixels(sprites: Sprites, mix: Mix, count: int, seed: int, *, side: int = 128) -> Tensor:
    """Composites of one seed: [count, 3, 3/4 side, side] in -1..1."""
    rng, size = np.random.default_rng(seed), {"width": side, "height": 3 * side // 4}
    return pixels_of([paint_record(draw_record(rng, mix), sprites, **size) for _ in range(count)])


HELD_OUT = 987_654_321
"""A seed that training never draws."""


def fit_encoder(recipe: AutoencoderRecipe, sprites: Sprites, count: int = 1000) -> BlockPCA:
    """The block transform fitted to composites of the recipe's mix."""
    pixels = sample_pixels(sprites, recipe.mix, count, recipe.seed, side=recipe.side)
    return fit(pixels, recipe.params.z_channels, whitening=recipe.whitening)


@torch.no_grad()
def psnr(autoencoder: Autoencoder, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction, peak 255, mean over pictures."""
    return decibels(autoencoder.decoder(autoencoder.moments(pixels)[0]).float(), pixels)


def decibels(rebuilt: Tensor, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio of two batches in -1..1, in dB, mean over pictures."""
    error = (127.5 * (rebuilt.clamp(-1, 1) - pixels)).square().flatten(1).mean(1)
    return float((10 * torch.log10(255.0**2 / error.clamp_min(1e-6))).mean())


def train(
    recipe: AutoencoderRecipe,
    sprites: Sprites,
    folder: Path,
    deadline: Deadline,
    *,
    device: str = "cpu",
    start: Path | None = None,
    pool: Sequence[Tensor] = (),
) -> Path:
    """Train the decoder until the deadline, resuming from `folder` when it holds a state, from the checkpoint's file
    `start` when there is one; returns the state's path. `pool`: pictures that batches are cut from (`pooled_batch`).
    """
    torch.manual_seed(recipe.seed)
    model = Autoencoder(recipe.params) if start is None else started(recipe, start)
    model = model.channels_last()
    pca = block_transform(recipe, sprites, folder, start)
    if start is None:
        write(model.encoder, recipe.params, pca)
    model.to(device)
    decoder = model.decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    average = Average(model, recipe.average)
    checkpoint = folder / "autoencoder.pt"
    step = load_state(checkpoint, model, optimiser, average)
    judged = sample_pixels(sprites, recipe.mix, 24, HELD_OUT, side=recipe.side)
    log.info("linear bound %.2f dB", decibels(pca.decode(pca.encode(judged)), judged))
    judged, pca = judged.to(device), pca.to(device)
    pace, minute = Pace(), Every(1)
    while not deadline.over(step):
        crops = deadline.progress(step) < recipe.crop_share
        if pool:
            pixels = pooled_batch(recipe, pool, step, crops=crops)
        else:
            pixels = training_batch(recipe, sprites, step, crops=crops).to(device)
        latents = pca.encode(pixels)
        generator = torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + step)
        latents = latents + recipe.noise * torch.randn(latents.shape, generator=generator, device=device)
        for group in optimiser.param_groups:
            group["lr"] = rate(recipe.rate, step, deadline.progress(step), decay_share=recipe.decay_share)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=recipe.bf16):
            loss = reconstruction_loss(decoder, latents, pixels, recipe.gradient_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        step += 1
        average.update(model, step)
        pace.add(loss.item())
        if minute():
            mean, _ = pace.read()
            log.info("decoder step %d loss %.4f psnr %.2f dB (average)", step, mean, psnr(average.module, judged))
            save_state(checkpoint, model, optimiser, average, step)
    save_state(checkpoint, model, optimiser, average, step)
    summary = {"steps": step, "psnr_db": psnr(average.module, judged)}
    (folder / "autoencoder.json").write_text(json.dumps(summary, indent=2))
    log.info("decoder done: %s", summary)
    return checkpoint
