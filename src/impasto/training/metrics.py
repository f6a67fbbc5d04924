"""Is it the thing that was asked for? Two scores that need no judge but the sprites themselves.

Nearest sprite: a drawn picture is compared with every concept's sprite, painted on the asked background at several
sizes and places; it counts when the nearest is the asked concept. Background: the median colour of the picture's
corners is nearest to the asked named colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from impasto.training.compose import BACKGROUNDS, Composition, paint
from impasto.training.concepts import BY_NAME, CONCEPTS
from impasto.training.sprites import Pixels, Sprites

_THUMB = (32, 24)
_SCALES = (0.75, 0.81, 0.875)
_MOVES = (-0.085, 0.0, 0.085)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a prompt asked for, in the data set's words."""

    prompt: str
    concept: str
    background: str
    colour: str | None = None


def judged_prompts(seed: int = 5) -> list[Asked]:
    """One prompt a concept, on a drawn background, half of the recolourable ones in a drawn colour."""
    rng = np.random.default_rng(seed)
    asked: list[Asked] = []
    for concept in CONCEPTS:
        recoloured = bool(concept.palette) and rng.random() < 0.5
        colour = concept.palette[int(rng.integers(len(concept.palette)))] if recoloured else None
        free = [name for name in BACKGROUNDS if name != (colour or concept.colour)]
        background = free[int(rng.integers(len(free)))]
        noun = f"{colour} {concept.name}" if colour else concept.name
        article = "an" if noun[0] in "aeiou" else "a"
        asked.append(Asked(f"{article} {noun} on a {background} background", concept.name, background, colour))
    return asked


def nearest_concept(picture: Pixels, sprites: Sprites, *, background: str, colour: str | None) -> str:
    """The concept whose 3D sprite, on that background, is nearest to the picture in mean squared error."""
    seen = _thumb(picture)
    best, found = np.inf, ""
    for concept in CONCEPTS:
        tinted = colour if colour in concept.palette else None
        distance = min(
            float(np.square(seen - template).mean())
            for template in _templates(sprites, concept.name, background, tinted)
        )
        if distance < best:
            best, found = distance, concept.name
    return found


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


def accuracy(pictures: Sequence[Pixels], asked: Sequence[Asked], sprites: Sprites) -> Scores:
    """Score one picture for each thing asked."""
    concepts = [
        nearest_concept(picture, sprites, background=a.background, colour=a.colour)
        for picture, a in zip(pictures, asked, strict=True)
    ]
    missed = [f"{a.concept} (nearest: {got})" for a, got in zip(asked, concepts, strict=True) if got != a.concept]
    grounds = [nearest_background(picture) == a.background for picture, a in zip(pictures, asked, strict=True)]
    return Scores(1 - len(missed) / len(asked), float(np.mean(grounds)), tuple(missed))


def _thumb(picture: Pixels) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(picture).resize(_THUMB, Image.Resampling.BOX), np.float32)


def _templates(sprites: Sprites, concept: str, background: str, colour: str | None) -> list[npt.NDArray[np.float32]]:
    assert concept in BY_NAME
    return [
        _thumb(
            paint(
                Composition(concept, "3d", colour, background, None, scale, (dx, dy), (0, 0), (0, 0, 0)),
                sprites,
                width=128,
                height=96,
            )
        )
        for scale, dx, dy in product(_SCALES, _MOVES, (-0.04, 0.0, 0.04))
    ]
