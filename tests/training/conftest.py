"""Sprites and icon packages made by the tests themselves: no network, no npm cache, no shipped picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impasto.training.concepts import CONCEPTS, PEOPLE
from impasto.training.sources import SOURCES, STYLES
from impasto.training.sprites import Pixels, SpriteKey, Sprites

EVERYTHING = (*CONCEPTS, *PEOPLE)


def toy_sprite(index: int, style: int, side: int = 48) -> Pixels:
    """A saturated red pattern of 4x4 cells on transparent ground, another one for every index and style."""
    rng = np.random.default_rng((index, style))
    cells = rng.random((4, 4)) < 0.6
    cells[1:3, 1:3] = True
    mask = np.kron(cells, np.ones((side // 4, side // 4))).astype(bool)
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[mask] = (200, 30, 30, 255)
    return rgba


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    return Sprites(
        {
            SpriteKey(concept.name, style): toy_sprite(i, j)
            for i, concept in enumerate(EVERYTHING)
            for j, style in enumerate(STYLES)
        }
    )


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The three packages, unpacked, with one tiny icon for every concept."""
    for source in SOURCES:
        folder = tmp_path / "packages" / source.folder
        (folder / "assets").mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"license": source.licence}))
        if source.style == "3d":
            for i, concept in enumerate(EVERYTHING):
                suffix = "-fe0f" if i % 2 else ""
                picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
                picture.paste((10, 200, 10, 255), (4, 4, 12, 10))
                picture.save(folder / "assets" / f"{concept.codepoint}{suffix}.webp", lossless=True)
            continue
        body = '<path fill="#c00" d="M4 4h8v6H4z"/>'
        icons = {concept.name.replace(" ", "-"): {"body": body} for concept in EVERYTHING}
        chars = {concept.codepoint: concept.name.replace(" ", "-") for concept in EVERYTHING}
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
        (folder / "chars.json").write_text(json.dumps(chars))
    return tmp_path / "packages"
