"""The tables, the packages and the sprites."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from impasto.training import sources, sprites
from impasto.training.concepts import (
    BY_NAME,
    CONCEPTS,
    COUNTED,
    FIRST,
    HELD_OUT,
    OBJECT_COLOURS,
    PEOPLE,
    plural,
    trained_palette,
)
from impasto.training.sources import SOURCES, STYLES, SourceError


def test_every_concept_is_named_once_and_synonyms_lead_to_one_concept() -> None:
    everything = (*CONCEPTS, *PEOPLE)
    assert len(BY_NAME) == len(everything)
    words = [word for concept in everything for word in (concept.name, *concept.synonyms)]
    assert len(words) == len(set(words))
    assert len({concept.codepoint for concept in everything}) == len(everything)


def test_half_of_the_newer_colours_are_held_out_and_none_of_the_first() -> None:
    newer = {(concept.name, colour) for concept in CONCEPTS[FIRST:] for colour in concept.palette}
    assert newer > HELD_OUT
    assert 0.4 < len(HELD_OUT) / len(newer) < 0.6
    for concept in CONCEPTS:
        held = {colour for name, colour in HELD_OUT if name == concept.name}
        assert set(trained_palette(concept)) == set(concept.palette) - held
        assert trained_palette(concept) or not concept.palette, concept.name


def test_plurals_are_english_and_no_two_concepts_share_one() -> None:
    plurals = [plural(concept) for concept in COUNTED]
    assert len(set(plurals)) == len(plurals)
    named = {concept.name: plural(concept) for concept in CONCEPTS}
    asked = (
        "apple",
        "strawberry",
        "bus",
        "fox",
        "butterfly",
        "toy",
        "mouse",
        "house",
        "tomato",
        "donkey",
        "fish",
        "sun",
    )
    right = (
        "apples",
        "strawberries",
        "buses",
        "foxes",
        "butterflies",
        None,
        "mice",
        "houses",
        "tomatoes",
        None,
        "fish",
        None,
    )
    assert [named.get(name) for name in asked] == list(right)


def test_palettes_hold_known_colours_and_not_the_natural_one_of_animals() -> None:
    for concept in CONCEPTS:
        assert set(concept.palette) <= set(OBJECT_COLOURS), concept.name
        assert not (concept.animal and concept.palette), concept.name
        int(concept.codepoint, 16)


def test_every_concept_has_its_icon_in_every_style(packages: Path) -> None:
    rendered = sprites.render(packages, side=24)
    assert {(key.concept, key.style) for key in rendered} == {(c.name, s) for c in (*CONCEPTS, *PEOPLE) for s in STYLES}
    for key, picture in rendered.items():
        assert picture.shape == (24, 24, 4), key
        # 8x6 visible pixels: the longer side fills the square, the shorter keeps the ratio
        opaque = picture[..., 3] > 127
        assert opaque.any(axis=0).all(), key
        assert int(opaque.any(axis=1).sum()) == 18, key


def test_a_missing_icon_is_refused_with_the_package_and_the_code_point(packages: Path) -> None:
    assets = packages / SOURCES[0].folder / "assets"
    next(assets.glob(f"{CONCEPTS[0].codepoint}*.webp")).unlink()
    with pytest.raises(SourceError, match=rf"{SOURCES[0].package}.*{CONCEPTS[0].codepoint}"):
        sprites.render(packages, side=24)


def test_a_missing_package_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="impasto train default-model data"):
        sprites.render(tmp_path)


def test_sprites_come_back_from_their_file(tmp_path: Path, sprites: sprites.Sprites) -> None:
    sprites.save(tmp_path / "sprites.npz")
    loaded = type(sprites).load(tmp_path / "sprites.npz")
    assert set(loaded) == set(sprites)
    assert all(np.array_equal(loaded[key], sprites[key]) for key in sprites)


def _archive(path: Path, member: str = "package/package.json", licence: str = "MIT") -> bytes:
    text = json.dumps({"license": licence}).encode()
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return path.read_bytes()


def test_an_archive_with_another_checksum_is_refused_and_removed(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    _archive(archive)
    with pytest.raises(SourceError, match="checksum"):
        sources.check_integrity(archive, SOURCES[0])
    assert not archive.exists()


def test_the_right_archive_is_accepted_and_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    digest = base64.b64encode(hashlib.sha512(_archive(archive)).digest()).decode()
    source = replace(SOURCES[0], integrity=f"sha512-{digest}")
    sources.check_integrity(archive, source)
    sources.unpack(archive, tmp_path / "out")
    sources.check_licence(tmp_path / "out", source)
    assert (tmp_path / "out" / "package.json").is_file()


def test_a_package_under_another_licence_is_refused_and_removed(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tgz", licence="CC-BY-SA-4.0")
    sources.unpack(tmp_path / "a.tgz", tmp_path / "out")
    with pytest.raises(SourceError, match="CC-BY-SA"):
        sources.check_licence(tmp_path / "out", SOURCES[0])
    assert not (tmp_path / "out").exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tgz", member="../../outside.json")
    with pytest.raises(tarfile.OutsideDestinationError):
        sources.unpack(tmp_path / "a.tgz", tmp_path / "deep" / "out")
    assert not (tmp_path / "outside.json").exists()


WITHOUT = """
import sys
from pathlib import Path

sys.modules["resvg_py"] = None  # as where it is not installed
from impasto.cli.group import main
import click
import impasto.training.runs
from impasto.training import sources, sprites

@main.command()
def render():
    sprites.icon_reader(Path(sys.argv[1]), sources.SOURCES[0])

main(["render"])
"""


def test_without_its_package_only_the_rendering_ends_and_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "icons.json").write_text("{}")
    (tmp_path / "chars.json").write_text("{}")
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("impasto: rendering the icons needs the package resvg_py.")
    assert "pip install -e '.[train]'" in ended.stderr
