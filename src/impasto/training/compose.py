"""Seeded composition: a record that says everything about a training picture, and the picture that it describes.

The record is drawn first and is the only source of both the pixels (`paint`) and the words (`captions.caption`), so a
caption cannot say what the picture does not show.
"""

import colorsys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from impasto.training.concepts import BY_NAME, CONCEPTS, FIRST, PEOPLE, Concept, trained_palette
from impasto.training.sprites import Pixels, SpriteKey, Sprites

Floats = npt.NDArray[np.float32]
T = TypeVar("T")

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "gray": (150, 152, 156),
    "black": (18, 18, 20),
    "red": (214, 48, 49),
    "orange": (243, 146, 40),
    "yellow": (250, 214, 70),
    "green": (72, 168, 82),
    "blue": (48, 100, 216),
    "light blue": (152, 206, 246),
    "navy": (26, 36, 88),
    "teal": (28, 148, 146),
    "purple": (128, 78, 190),
    "pink": (250, 168, 198),
    "beige": (240, 226, 198),
}
"""Named plain backgrounds, sRGB."""

SCENES: tuple[str, ...] = ("meadow", "beach", "night", "sunset", "snow")
"""Simple painted backgrounds."""

_TARGETS: dict[str, tuple[float, float, float]] = {
    # hue in degrees, factors for saturation and value
    "red": (358.0, 1.0, 0.95),
    "orange": (27.0, 1.0, 1.0),
    "yellow": (48.0, 1.0, 1.05),
    "green": (125.0, 0.85, 0.80),
    "blue": (217.0, 0.90, 0.95),
    "purple": (274.0, 0.75, 0.85),
    "pink": (333.0, 0.55, 1.10),
    "white": (0.0, 0.04, 1.0),
    "black": (0.0, 0.10, 0.24),
}


@dataclass(frozen=True, slots=True)
class Composition:
    """Everything about one training picture. Lengths are fractions of the shorter side; colours are words.

    `colour` is None when the object has its own colours; exactly one of `background` and `scene` is set. `cells`
    moves the object by whole latents (8 pixels) along an axis that has the room.
    """

    concept: str
    style: str
    colour: str | None
    background: str | None
    scene: str | None
    scale: float
    offset: tuple[float, float]
    cells: tuple[int, int]
    tint: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Mix:
    """How often the composer draws what: weights and shares in 0..1, ranges as (low, high).

    `sizes` None draws the scale anywhere in its range; a count draws one of so many evenly spaced values. With few
    sizes, no `offset` and whole `cells`, a sprite always meets the grid of latents in the same way, and its shape is
    learned far sooner. `things` and `persons` limit a short run to the first of the tables; None is all. `people` is
    the share of persons among single things, `emphasis` how much more often than the first 64 a newer thing is drawn;
    `pairs` and `counts` are the shares of pictures with several things (`groups`).
    """

    styles: tuple[tuple[str, float], ...] = (("3d", 0.66), ("flat", 0.18), ("cartoon", 0.16))
    recolour: float = 0.6
    scene: float = 0.08
    white: float = 0.25
    scale: tuple[float, float] = (0.76, 0.86)
    sizes: int | None = None
    offset: float = 0.03
    cells: int = 0
    tint: int = 6
    things: int | None = None
    people: float = 0.0
    persons: int | None = None
    emphasis: float = 1.0
    pairs: float = 0.0
    counts: float = 0.0


def known(mix: Mix) -> tuple[Concept, ...]:
    """Every thing and person that pictures of the mix show."""
    return CONCEPTS[: mix.things] + (PEOPLE[: mix.persons] if mix.people else ())


def draw(rng: np.random.Generator, mix: Mix, concepts: tuple[str, ...] | None = None) -> Composition:
    """Draw one composition; the same generator state gives the same record."""
    concept = draw_concept(rng, mix) if concepts is None else BY_NAME[pick(rng, concepts)]
    style = draw_style(rng, mix)
    colour = draw_colour(rng, concept, mix.recolour)
    background, scene = draw_ground(rng, mix, {colour or concept.colour})
    return Composition(
        concept=concept.name,
        style=style,
        colour=colour,
        background=background,
        scene=scene,
        scale=float(rng.uniform(*mix.scale) if mix.sizes is None else rng.choice(np.linspace(*mix.scale, mix.sizes))),
        offset=(float(rng.uniform(-mix.offset, mix.offset)), float(rng.uniform(-mix.offset, mix.offset))),
        cells=(int(rng.integers(-mix.cells, mix.cells + 1)), int(rng.integers(-mix.cells, mix.cells + 1))),
        tint=tuple(int(v) for v in rng.integers(-mix.tint, mix.tint + 1, 3)),  # pyright: ignore[reportArgumentType]
    )


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values, each as likely."""
    return values[int(rng.integers(len(values)))]


def draw_concept(rng: np.random.Generator, mix: Mix) -> Concept:
    """A thing or, as often as the mix says, a person; the newer things `emphasis` times as often."""
    if mix.people and rng.random() < mix.people:
        return pick(rng, PEOPLE[: mix.persons])
    newer = CONCEPTS[FIRST : mix.things]
    weight = mix.emphasis * len(newer)
    return pick(rng, newer if rng.random() * (FIRST + weight) < weight else CONCEPTS[:FIRST])


def draw_style(rng: np.random.Generator, mix: Mix) -> str:
    weights = np.array([weight for _, weight in mix.styles])
    return mix.styles[int(rng.choice(len(mix.styles), p=weights / weights.sum()))][0]


def draw_colour(rng: np.random.Generator, concept: Concept, share: float) -> str | None:
    """A colour of the concept's palette that is not held out, or, in the rest of the draws, none."""
    palette = trained_palette(concept)
    return pick(rng, palette) if palette and rng.random() < share else None


def draw_ground(rng: np.random.Generator, mix: Mix, taken: Set[str | None]) -> tuple[str | None, str | None]:
    """(plain background, scene), one of them None; never one of the colours that are `taken`."""
    if rng.random() < mix.scene:
        return None, pick(rng, SCENES)
    free = [name for name in BACKGROUNDS if name not in taken]
    return ("white" if "white" in free and rng.random() < mix.white else pick(rng, free)), None


def paint(record: Composition, sprites: Sprites, *, width: int, height: int) -> Pixels:
    """The picture of a record: (height, width, 3) uint8."""
    canvas = ground(record, width, height)
    short = min(width, height)
    side = max(8, round(record.scale * short))
    left = _place(width - side, record.offset[0] * short, record.cells[0])
    top = _place(height - side, record.offset[1] * short, record.cells[1])
    lay(canvas, sprite(sprites, record.concept, record.style, record.colour), left=left, top=top, side=side)
    return to_bytes(canvas)


def lay(canvas: Floats, icon: Image.Image, *, left: int, top: int, side: int) -> None:
    """Put a premultiplied sprite on the canvas, in place: a square of `side` pixels that lies wholly inside."""
    small = np.asarray(icon.resize((side, side), Image.Resampling.LANCZOS), np.float32)
    window = canvas[top : top + side, left : left + side]
    canvas[top : top + side, left : left + side] = small[..., :3] + window * (1.0 - small[..., 3:] / 255.0)


def to_bytes(canvas: Floats) -> Pixels:
    """A finished canvas as pixels."""
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _place(room: int, offset: float, cells: int) -> int:
    """First pixel of an object that leaves `room` pixels free along an axis."""
    moved = room // 2 + 8 * cells
    start = moved if 0 <= moved <= room else room // 2
    return min(max(start + round(offset), 0), room)


@lru_cache(maxsize=4096)
def sprite(sprites: Sprites, concept: str, style: str, colour: str | None) -> Image.Image:
    """The sprite as drawn or recoloured, premultiplied ("RGBa") so that it may be resized."""
    rgba = sprites[SpriteKey(concept, style)]
    return Image.fromarray(rgba if colour is None else recolour(rgba, colour), "RGBA").convert("RGBa")


def recolour(rgba: Pixels, colour: str) -> Pixels:
    """Shift the object's main hue to a named colour and leave parts of other hues as they are: (h, w, 4) to the
    same.
    """
    hue, saturation, value = _to_hsv(rgba[..., :3])
    weight = saturation * (rgba[..., 3] / 255.0)
    histogram = np.bincount((hue * 36).astype(int).ravel() % 36, weights=weight.ravel(), minlength=36)
    smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
    main = (float(smooth.argmax()) + 0.5) / 36
    distance = (hue - main + 0.5) % 1.0 - 0.5
    belongs = np.clip((62.0 - np.abs(distance) * 360.0) / 12.0, 0, 1) * np.clip((saturation - 0.12) / 0.12, 0, 1)
    target, more_saturation, more_value = _TARGETS[colour]
    lift = value if colour != "white" else 1.0 - (1.0 - value) * 0.45
    shifted = _to_rgb(
        (target / 360.0 + distance * 0.4) % 1.0,
        np.clip(saturation * more_saturation, 0, 1),
        np.clip(lift * more_value, 0, 1),
    )
    mixed = rgba[..., :3] * (1 - belongs[..., None]) + shifted * 255.0 * belongs[..., None]
    return np.concatenate([np.clip(np.rint(mixed), 0, 255).astype(np.uint8), rgba[..., 3:]], axis=-1)


def _to_hsv(rgb: Pixels) -> tuple[Floats, Floats, Floats]:
    c = rgb.astype(np.float32) / 255.0
    high, low = c.max(-1), c.min(-1)
    spread = np.where(high > low, high - low, 1.0)
    r, g, b = c[..., 0], c[..., 1], c[..., 2]
    hue = np.where(high == r, ((g - b) / spread) % 6, np.where(high == g, (b - r) / spread + 2, (r - g) / spread + 4))
    hue = np.where(high > low, hue / 6.0, 0.0).astype(np.float32)
    saturation = np.where(high > 0, (high - low) / np.where(high > 0, high, 1.0), 0.0).astype(np.float32)
    return hue, saturation, high


def _to_rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    sector = hue[..., None] * 6.0 + np.array([5.0, 3.0, 1.0], np.float32)
    k = sector % 6.0
    return (value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


class Grounded(Protocol):
    """What a record of any kind says about its background."""

    @property
    def background(self) -> str | None: ...
    @property
    def scene(self) -> str | None: ...
    @property
    def tint(self) -> tuple[int, int, int]: ...


def ground(record: Grounded, width: int, height: int) -> Floats:
    """The background alone, (height, width, 3) float32 in 0..255."""
    tint = np.array(record.tint, np.float32)
    if record.scene is None:
        assert record.background is not None
        flat = np.clip(np.array(BACKGROUNDS[record.background], np.float32) + tint, 0, 255)
        return np.broadcast_to(flat, (height, width, 3)).copy()
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    painted = np.broadcast_to(_SCENE_PAINTERS[record.scene](y, x), (height, width, 3))
    return np.clip(painted + tint, 0, 255).astype(np.float32)


def _rgb(*values: float) -> Floats:
    return np.array(values, np.float32)


def _meadow(y: Floats, x: Floats) -> Floats:
    ground = y > 0.66 + 0.02 * np.sin(x * 9.0)
    return np.where(ground, _rgb(112, 184, 84) - 30 * (y - 0.66), _rgb(150, 208, 246) + 40 * y)


def _beach(y: Floats, x: Floats) -> Floats:
    sea = np.where(y > 0.45, _rgb(40, 140, 200), _rgb(170, 218, 248) + 30 * y)
    return np.where(y > 0.68 + 0.015 * np.sin(x * 7.0), _rgb(238, 214, 160), sea)


def _night(y: Floats, x: Floats) -> Floats:
    # a fixed, irregular field of stars, so that the scene is one thing to learn
    glitter = np.zeros((y.shape[0], x.shape[1], 1), np.float32)
    for a, b in ((5, 9), (14, 80), (22, 30), (38, 93), (60, 6), (74, 88), (90, 22), (93, 70), (8, 52), (84, 52)):
        glitter[a * y.shape[0] // 100, b * x.shape[1] // 100] = 200.0
    return _rgb(16, 18, 52) + 26 * y + glitter


def _sunset(y: Floats, x: Floats) -> Floats:
    return (_rgb(120, 70, 150) * (1 - y) + _rgb(255, 150, 70) * y + 0 * x).astype(np.float32)


def _snow(y: Floats, x: Floats) -> Floats:
    return np.where(y > 0.7 + 0.02 * np.sin(x * 6.0), _rgb(244, 248, 252), _rgb(176, 206, 232) + 24 * y)


_SCENE_PAINTERS = {"meadow": _meadow, "beach": _beach, "night": _night, "sunset": _sunset, "snow": _snow}


def hex_colour(name: str) -> str:
    """The `#rrggbb` of a named background, for documentation."""
    r, g, b = BACKGROUNDS[name]
    return f"#{r:02x}{g:02x}{b:02x}"


def colour_name(rgb: tuple[float, float, float]) -> str:
    """The named background nearest to an sRGB colour (0..255), by hue, saturation and value."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))

    def distance(name: str) -> float:
        other = colorsys.rgb_to_hsv(*(c / 255 for c in BACKGROUNDS[name]))
        turn = min(abs(h - other[0]), 1 - abs(h - other[0])) * min(s, other[1])
        return (2.5 * turn) ** 2 + (0.6 * (s - other[1])) ** 2 + (v - other[2]) ** 2

    return min(BACKGROUNDS, key=distance)
