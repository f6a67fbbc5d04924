"""A small image-text scorer: which of some concepts does a picture show? Trained here, on pictures no model drew.

An image tower of five convolutions and a linear text tower on MiniLM's mean state meet in 128 numbers, as in CLIP
(Radford et al. 2021), and are trained by the same contrast: a picture against the words of every concept. It sees the
training's icons in seeds of its own, in free sizes, places and angles, blurred. Every picture is cut to its foreground
first (`objects.crop`), in training and in use.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from objects import SIDE, crop
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux.checkpoint import EMBEDDED
from impasto.flux.text import MiniLMTextEncoder
from impasto.training.captions import article
from impasto.training.compose import BACKGROUNDS, Composition, lay, sprite, to_bytes
from impasto.training.concepts import BY_NAME, CONCEPTS, Concept
from impasto.training.sprites import Pixels, Sprites

SEED = 77_001
"""Of the scorer's pictures; the training's recipes have other seeds and other generators."""
_POOL, _BATCH, _WIDTH = 8000, 128, 128


class Scorer(nn.Module):
    """Pictures [B, 3, 48, 48] in 0..1 and words' states [M, 384] to scores [B, M]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 192)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(192 * 9, _WIDTH))
        self.words = nn.Linear(384, _WIDTH)
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, pictures: Tensor, states: Tensor) -> Tensor:
        seen = F.normalize(self.image(pictures - 0.5), dim=-1)
        return self.scale.exp() * seen @ F.normalize(self.words(states), dim=-1).T


def tensor(crops: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def picture(rng: np.random.Generator, concept: Concept, style: str, sprites: Sprites) -> Pixels:
    """One picture of a concept, as free as the training's are bound to the grid; cut to its foreground."""
    colour = (
        concept.palette[int(rng.integers(len(concept.palette)))] if concept.palette and rng.random() < 0.5 else None
    )
    names = [name for name in BACKGROUNDS if name != (colour or concept.colour)]
    plain = np.array(BACKGROUNDS[names[int(rng.integers(len(names)))]], np.float32)
    canvas = np.broadcast_to(plain + rng.uniform(-8, 8, 3), (64, 64, 3)).astype(np.float32).copy()
    icon = sprite(sprites, concept.name, style, colour).rotate(float(rng.normal(0, 6)), Image.Resampling.BILINEAR)
    side = int(rng.integers(32, 64))
    left, top = (int(rng.integers(64 - side + 1)) for _ in range(2))
    lay(canvas, icon, left=left, top=top, side=side)
    blurred = Image.fromarray(to_bytes(canvas)).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
    return crop(np.asarray(blurred))


def _states(text: MiniLMTextEncoder, concepts: list[Concept], rng: np.random.Generator) -> Tensor:
    words = [(c.name, *c.synonyms)[int(rng.integers(1 + len(c.synonyms)))] for c in concepts]
    return text.encode([article(word) for word in words]).vec


def train(sprites: Sprites, styles: tuple[str, ...], file: Path, steps: int = 400) -> Scorer:
    """The scorer in `file`, trained first when there is none: `steps` batches of 128 from 8,000 pictures."""
    torch.manual_seed(SEED)
    scorer = Scorer()
    if file.is_file():
        scorer.load_state_dict(torch.load(file, weights_only=True))
        return scorer.eval()
    text, rng, concepts = MiniLMTextEncoder.load(EMBEDDED / "impasto-mini"), np.random.default_rng(SEED), list(CONCEPTS)
    labels = rng.integers(len(concepts), size=_POOL)
    pool = [picture(rng, concepts[label], styles[int(rng.integers(len(styles)))], sprites) for label in labels]
    pictures = tensor(pool)
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=2e-3, weight_decay=0.02)
    course = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        if step % 20 == 0:
            states = _states(text, concepts, rng).clone()
        rows = rng.integers(_POOL, size=_BATCH)
        shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
        batch = pictures[rows].roll(shift, (2, 3)) + 0.03 * torch.randn(_BATCH, 3, 1, 1)
        loss = F.cross_entropy(scorer(batch, states), torch.from_numpy(labels[rows]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        course.step()
        if step % 50 == 49:
            print(f"scorer: step {step + 1} loss {loss.item():.3f}", flush=True)
    torch.save(scorer.state_dict(), file)
    return scorer.eval()


class Judge:
    """Which of the given concepts a picture shows."""

    def __init__(self, scorer: Scorer, names: tuple[str, ...]) -> None:
        text = MiniLMTextEncoder.load(EMBEDDED / "impasto-mini")
        self.scorer, self.names = scorer, names
        self.states = text.encode([article(BY_NAME[name].name) for name in names]).vec.clone()

    @torch.no_grad()
    def names_of(self, crops: list[Pixels]) -> list[str]:
        """The best name for each crop (`objects.crop`)."""
        return [self.names[int(row)] for row in self.scorer(tensor(crops), self.states).argmax(1)] if crops else []


def truth(name: str, *, background: str = "white", colour: str | None = None) -> Composition:
    """The record of a picture that shows exactly what is asked, for the checks' own accuracy."""
    return Composition(name, "3d", colour, background, None, 0.8, (0.02, 0.01), (0, 0), (2, -2, 1))


__all__ = ["SIDE", "Judge", "Scorer", "train", "truth"]
