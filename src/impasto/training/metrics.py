"""Is it the thing that was asked for? Two scores that need no judge but the sprites themselves.

Nearest sprite: a drawn picture is compared with every concept's sprite, painted on the asked background at several
sizes and places; it counts when the nearest is the asked concept. Background: the median colour of the picture's
corners is nearest to the asked named colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from impasto.training.captions import article
from impasto.training.compose import BACKGROUNDS, Composition, paint
from impasto.training.concepts import CONCEPTS, Concept
from impasto.training.sprites import Pixels, Sprites

Thumbs = npt.NDArray[np.float32]

_THUMB = (32, 24)
_STEPS = (-0.083, -0.042, 0.0, 0.042, 0.083)
_PLACES = tuple(product((0.6, 0.68, 0.77, 0.85, 0.93), _STEPS, _STEPS))
"""Scale, and offset along both axes, of the sprites that a picture is compared with."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a prompt asked for, in the data set's words."""

    prompt: str
    concept: str
    background: str
    colour: str | None = None


def judged_prompts(seed: int = 5, concepts: Sequence[Concept] = CONCEPTS) -> list[Asked]:
    """One prompt a concept, on a drawn background, half of the recolourable ones in a drawn colour."""
    rng = np.random.default_rng(seed)
    asked: list[Asked] = []
    for concept in concepts:
        recoloured = bool(concept.palette) and rng.random() < 0.5
        colour = concept.palette[int(rng.integers(len(concept.palette)))] if recoloured else None
        free = [name for name in BACKGROUNDS if name != (colour or concept.colour)]
        background = free[int(rng.integers(len(free)))]
        noun = f"{colour} {concept.name}" if colour else concept.name
        prompt = f"{article(noun)} on {article(background)} background"
        asked.append(Asked(prompt, concept.name, background, colour))
    return asked


def nearest_concept(
    picture: Pixels,
    sprites: Sprites,
    *,
    background: str,
    colour: str | None,
    concepts: Sequence[Concept] = CONCEPTS,
) -> str:
    """The concept whose 3D sprite, on that background, is nearest to the picture in mean squared error."""
    seen = _thumb(picture)
    distances = {
        concept.name: float(
            np.square(
                _templates(sprites, concept.name, colour if colour in concept.palette else None, background) - seen
            )
            .mean(axis=(1, 2, 3))
            .min()
        )
        for concept in concepts
    }
    return min(distances, key=lambda name: distances[name])


def corner_colour(picture: Pixels) -> tuple[float, float, float]:
    """Median colour of the four corners, sRGB 0..255."""
    corners = np.concatenate(
        [picture[y, x].reshape(-1, 3) for y, x in product((slice(0, 6), slice(-6, None)), repeat=2)]
    )
    r, g, b = np.median(corners, axis=0)
    return float(r), float(g), float(b)


def nearest_background(picture: Pixels) -> str:
    """The named background nearest to the corners' colour, in sRGB."""
    seen = np.array(corner_colour(picture))
    return min(BACKGROUNDS, key=lambda name: float(np.square(seen - np.array(BACKGROUNDS[name])).sum()))


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares in 0..1 of concepts and of backgrounds drawn as asked, and what was drawn instead of the missed
    concepts.
    """

    concept: float
    background: float
    missed: tuple[str, ...]

    def __str__(self) -> str:
        missed = ", ".join(self.missed) or "nothing"
        return f"concept {self.concept:.3f}, background {self.background:.3f}, missed: {missed}"


def accuracy(
    pictures: Sequence[Pixels], asked: Sequence[Asked], sprites: Sprites, concepts: Sequence[Concept] = CONCEPTS
) -> Scores:
    """Score one picture for each thing asked, among these concepts."""
    nearest = [
        nearest_concept(picture, sprites, background=a.background, colour=a.colour, concepts=concepts)
        for picture, a in zip(pictures, asked, strict=True)
    ]
    missed = [f"{a.concept} (nearest: {got})" for a, got in zip(asked, nearest, strict=True) if got != a.concept]
    grounds = [nearest_background(picture) == a.background for picture, a in zip(pictures, asked, strict=True)]
    return Scores(1 - len(missed) / len(asked), float(np.mean(grounds)), tuple(missed))


def _thumb(picture: Pixels) -> Thumbs:
    return np.asarray(Image.fromarray(picture).resize(_THUMB, Image.Resampling.BOX), np.float32)


@lru_cache(maxsize=512)
def _layers(sprites: Sprites, concept: str, colour: str | None) -> tuple[Thumbs, Thumbs]:
    """A sprite's small pictures at every size and place: what it paints on black, and how much ground shows through."""
    black, white = (
        np.stack(
            [
                _thumb(paint(_placed(concept, colour, ground, *where), sprites, width=128, height=96))
                for where in _PLACES
            ]
        )
        for ground in ("black", "white")
    )
    dark, light = (np.array(BACKGROUNDS[ground], np.float32) for ground in ("black", "white"))
    through = ((white - black) / (light - dark)).mean(axis=-1, keepdims=True).clip(0, 1)
    return black - through * dark, through


def _placed(concept: str, colour: str | None, ground: str, scale: float, dx: float, dy: float) -> Composition:
    return Composition(concept, "3d", colour, ground, None, scale, (dx, dy), (0, 0), (0, 0, 0))


def _templates(sprites: Sprites, concept: str, colour: str | None, background: str) -> Thumbs:
    painted, through = _layers(sprites, concept, colour)
    return (painted + through * np.array(BACKGROUNDS[background], np.float32)).astype(np.float32)
