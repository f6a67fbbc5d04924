"""Records, pictures and captions agree, and a seed decides all three."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto.training import captions, compose, metrics
from impasto.training.compose import BACKGROUNDS, SCENES, Composition, Mix
from impasto.training.concepts import BY_NAME, CONCEPTS, OBJECT_COLOURS
from impasto.training.sprites import Sprites

GRID = Mix(scale=(0.75, 0.875), sizes=2, offset=0.0, cells=1)
PLAIN = Composition("star", "3d", None, "beige", None, 0.75, (0.0, 0.0), (0, 0), (0, 0, 0))


def _pair(seed: int) -> tuple[Composition, str]:
    rng = np.random.default_rng(seed)
    record = compose.draw(rng, GRID)
    return record, captions.caption(record, rng)


def _says(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text) is not None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**40))
def test_captions_are_true_to_the_record(seed: int) -> None:
    record, text = _pair(seed)
    concept = BY_NAME[record.concept]

    nouns = [noun for noun in (concept.name, *concept.synonyms) if _says(text, noun)]
    assert nouns, (record, text)

    # the colour before the noun is the object's; a shifted colour is never left out
    before = {re.search(rf"(\w+) {re.escape(noun)}\b", text) for noun in nouns}
    coloured = {found.group(1) for found in before if found} & set(OBJECT_COLOURS)
    if record.colour is not None:
        assert record.colour in coloured, (record, text)
    else:
        assert coloured <= {concept.colour}, (record, text)

    # a background is named unless it is white, and only the right one
    if record.scene is not None:
        assert any(words in text for words in captions.SCENE_WORDS[record.scene]), (record, text)
        assert "background" not in text
    else:
        assert record.background is not None
        right = captions.BACKGROUND_WORDS.get(record.background, (record.background,))
        named = any(f"{words} background" in text for words in right)
        assert named or (record.background == "white" and "background" not in text), (record, text)

    # other styles than 3D are always named, and no style is named wrongly
    for style, words in captions.STYLE_WORDS.items():
        if any(_says(text, word) for word in words):
            assert style == record.style, (record, text)
    if record.style != "3d":
        assert any(_says(text, word) for word in captions.STYLE_WORDS[record.style]), (record, text)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40))
def test_a_seed_gives_the_same_record_and_caption(seed: int) -> None:
    assert _pair(seed) == _pair(seed)


def test_a_seed_gives_the_same_pixels(sprites: Sprites) -> None:
    def pictures() -> list[np.ndarray]:
        rng = np.random.default_rng(3)
        return [compose.paint(compose.draw(rng, Mix()), sprites, width=128, height=96) for _ in range(20)]

    first, second = pictures(), pictures()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({picture.tobytes() for picture in first}) == 20


def test_every_concept_scene_and_background_is_drawn() -> None:
    rng = np.random.default_rng(0)
    records = [compose.draw(rng, GRID) for _ in range(4000)]
    assert {record.concept for record in records} == {concept.name for concept in CONCEPTS}
    assert {record.scene for record in records} == {None, *SCENES}
    assert {record.background for record in records} == {None, *BACKGROUNDS}
    assert all((record.scene is None) != (record.background is None) for record in records)
    plain = [record for record in records if record.scene is None]
    assert all(record.background != (record.colour or BY_NAME[record.concept].colour) for record in plain)


def test_the_picture_shows_the_named_background(sprites: Sprites) -> None:
    for name in BACKGROUNDS:
        picture = compose.paint(replace(PLAIN, background=name, tint=(6, -6, 6)), sprites, width=128, height=96)
        assert metrics.nearest_background(picture) == name


def test_scenes_differ_from_each_other(sprites: Sprites) -> None:
    painted = {
        scene: compose.paint(replace(PLAIN, background=None, scene=scene), sprites, width=80, height=64)
        for scene in SCENES
    }
    assert len({picture.tobytes() for picture in painted.values()}) == len(SCENES)


def test_recolouring_moves_the_main_hue_to_the_named_colour(sprites: Sprites) -> None:
    means: dict[str, tuple[float, ...]] = {}
    for colour in OBJECT_COLOURS:
        picture = compose.paint(replace(PLAIN, colour=colour), sprites, width=96, height=96)
        means[colour] = tuple(picture[40:56, 40:56].reshape(-1, 3).mean(axis=0).tolist())
    assert means["red"][0] > 2 * max(means["red"][1:])
    assert means["green"][1] > 2 * max(means["green"][0], means["green"][2])
    assert means["blue"][2] > 2 * means["blue"][0]
    assert min(means["white"]) > 180
    assert max(means["black"]) < 70
    assert means["yellow"][0] > means["yellow"][1] > 2 * means["yellow"][2]


def test_recolouring_leaves_other_hues_and_transparency_alone() -> None:
    sprite = np.zeros((8, 8, 4), np.uint8)
    sprite[:6] = (200, 20, 20, 255)
    sprite[6] = (20, 200, 20, 255)
    shifted = compose.recolour(sprite, "blue")
    assert np.array_equal(shifted[6:], sprite[6:])
    assert np.array_equal(shifted[..., 3], sprite[..., 3])
    assert not np.array_equal(shifted[0, 0], sprite[0, 0])


def test_cells_move_the_object_by_whole_latents_where_there_is_room(sprites: Sprites) -> None:
    still = compose.paint(PLAIN, sprites, width=128, height=96)
    right = compose.paint(replace(PLAIN, cells=(1, 0)), sprites, width=128, height=96)
    assert np.array_equal(np.roll(still, 8, axis=1), right)
    large = replace(PLAIN, scale=0.95)
    assert np.array_equal(
        compose.paint(large, sprites, width=128, height=96),
        compose.paint(replace(large, cells=(0, 1)), sprites, width=128, height=96),
    )


def test_a_sprite_painted_as_asked_is_scored_as_drawn_and_another_is_not(sprites: Sprites) -> None:
    asked = metrics.judged_prompts()[:3]

    def picture(one: metrics.Asked, concept: str) -> np.ndarray:
        record = Composition(concept, "3d", None, one.background, None, 0.8, (0.02, 0.0), (0, 0), (3, 0, -3))
        return compose.paint(record, sprites, width=128, height=96)

    plain = [replace(one, colour=None) for one in asked]
    right = metrics.accuracy([picture(one, one.concept) for one in plain], plain, sprites)
    assert (right.concept, right.background, right.missed) == (1.0, 1.0, ())
    wrong = metrics.accuracy([picture(one, "robot") for one in plain], plain, sprites)
    assert wrong.concept == 0.0
    assert len(wrong.missed) == 3
