"""Sprites: one RGBA picture a (concept, style), rendered once from the icon packages and kept in one file."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from impasto.errors import ConfigError
from impasto.training.concepts import CONCEPTS, PEOPLE, Concept
from impasto.training.sources import SOURCES, Source, SourceError, unpacked

SIDE = 128
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SpriteKey:
    """Which sprite: a concept's name and a style."""

    concept: str
    style: str


class Sprites(Mapping[SpriteKey, Pixels]):
    """Read-only table of sprites: SpriteKey to RGBA (128, 128, 4) uint8, the object filling the longer side."""

    def __init__(self, pixels: Mapping[SpriteKey, Pixels]) -> None:
        self._pixels = dict(pixels)

    def __getitem__(self, key: SpriteKey) -> Pixels:
        return self._pixels[key]

    def __iter__(self) -> Iterator[SpriteKey]:
        return iter(self._pixels)

    def __len__(self) -> int:
        return len(self._pixels)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def save(self, path: Path) -> None:
        """Write all sprites into one compressed numpy archive, keyed `concept|style`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {f"{key.concept}|{key.style}": value for key, value in self._pixels.items()}
        np.savez_compressed(path, allow_pickle=False, **named)

    @classmethod
    def load(cls, path: Path) -> "Sprites":
        """Read what `save` wrote; raises FileNotFoundError when the data step has not been run."""
        with np.load(path) as archive:
            return cls({SpriteKey(*name.split("|")): archive[name] for name in archive.files})


def render(
    cache: Path,
    *,
    concepts: tuple[Concept, ...] = (*CONCEPTS, *PEOPLE),
    sources: tuple[Source, ...] = SOURCES,
    side: int = SIDE,
) -> Sprites:
    """Render every (concept, style) from the unpacked packages; raises SourceError when an icon is missing."""
    pixels: dict[SpriteKey, Pixels] = {}
    for source in sources:
        reader = icon_reader(unpacked(source, cache), source, side)
        for concept in concepts:
            pixels[SpriteKey(concept.name, source.style)] = fit(reader(concept.codepoint), side)
    return Sprites(pixels)


def _svg_renderer(side: int) -> Callable[[str], bytes]:
    """SVG to a PNG of `side` pixels a side. Only the data step needs it, so the package is not one of impasto's own."""
    try:
        import resvg_py
    except ImportError:
        raise ConfigError(
            "rendering the icons needs the package resvg_py. In the folder of impasto's sources: "
            ".venv/bin/pip install -e '.[train]' -c constraints/tested.txt"
        ) from None
    return lambda svg: bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))


def icon_reader(folder: Path, source: Source, side: int = SIDE) -> Callable[[str], Image.Image]:
    """A function from code point to RGBA picture for one unpacked package (webp files, or iconify's SVG bodies)."""
    if (folder / "icons.json").is_file():
        render = _svg_renderer(2 * side)
        icons = json.loads((folder / "icons.json").read_text("utf-8"))
        names: dict[str, str] = json.loads((folder / "chars.json").read_text("utf-8"))

        def from_svg(codepoint: str) -> Image.Image:
            name = names.get(codepoint) or names.get(f"{codepoint}-fe0f")
            icon = icons["icons"].get(name) if name is not None else None
            if icon is None:
                raise SourceError(f"{source.package} has no icon for code point {codepoint}")
            width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            return Image.open(io.BytesIO(render(svg)))

        return from_svg

    def from_file(codepoint: str) -> Image.Image:
        for name in (codepoint, f"{codepoint}-fe0f"):
            path = folder / "assets" / f"{name}.webp"
            if path.is_file():
                return Image.open(path)
        raise SourceError(f"{source.package} has no icon for code point {codepoint}")

    return from_file


def fit(picture: Image.Image, side: int = SIDE) -> Pixels:
    """Crop to the visible part and fit it, centred, into a square of `side` pixels; premultiplied while resizing."""
    rgba = picture.convert("RGBA")
    box = rgba.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    if box is None:
        raise SourceError("an icon is wholly transparent")
    cropped = rgba.crop(box).convert("RGBa")
    scale = side / max(cropped.size)
    size = (max(1, round(cropped.width * scale)), max(1, round(cropped.height * scale)))
    small = cropped.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas, dtype=np.uint8)
