"""Records, pictures and captions agree, and a seed decides all three."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto.training import captions, compose, dataset, metrics
from impasto.training.compose import BACKGROUNDS, SCENES, Composition, Mix
from impasto.training.concepts import BY_NAME, HELD_OUT, OBJECT_COLOURS, plural
from impasto.training.dataset import CHUNK, BucketSize, Composer
from impasto.training.groups import Group, Member, slots
from impasto.training.records import draw_record, paint_record
from impasto.training.sprites import Sprites

GRID = Mix(scale=(0.75, 0.875), sizes=2, offset=0.0, cells=1)
PEOPLED = replace(GRID, people=0.3, emphasis=2.0)
MANY = replace(GRID, pairs=0.5, counts=0.5)
GROUND = r"\b(background|backdrop|wall)\b"
PLAIN = Composition("star", "3d", None, "beige", None, 0.75, (0.0, 0.0), (0, 0), (0, 0, 0))


def _pair(seed: int) -> tuple[Composition, str]:
    rng = np.random.default_rng(seed)
    record = compose.draw(rng, PEOPLED)
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
        assert not re.search(GROUND, text)
    else:
        assert record.background is not None
        right = captions.BACKGROUND_WORDS.get(record.background, (record.background,))
        named = re.search(rf"\b({'|'.join(right)}) {GROUND}", text)
        assert named or (record.background == "white" and not re.search(GROUND, text)), (record, text)

    # other styles than 3D are always named, and no style is named wrongly
    for style, words in captions.STYLE_WORDS.items():
        if any(_says(text, word) for word in words):
            assert style == record.style, (record, text)
    if record.style != "3d":
        assert any(_says(text, word) for word in captions.STYLE_WORDS[record.style]), (record, text)


def _group(seed: int) -> tuple[Group, str]:
    rng = np.random.default_rng(seed)
    record = draw_record(rng, MANY)
    assert isinstance(record, Group)
    return record, captions.caption(record, rng)


def _word(member: Member) -> str:
    concept = BY_NAME[member.concept]
    return "|".join(re.escape(noun) for noun in sorted((concept.name, *concept.synonyms), key=len, reverse=True))


LEFT = r"to the left of|left of|on the left of"
RIGHT = r"to the right of|right of|on the right of"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**40))
def test_captions_of_pairs_say_which_thing_is_where(seed: int) -> None:
    record, text = _group(seed)
    if record.counted:
        return
    a, b = _word(record.members[0]), _word(record.members[-1])
    forms = {
        "row": (
            rf"({a}) ({LEFT}) .*({b})|({b}) ({RIGHT}) .*({a})|({a}) on the left and .*({b}) on the right",
            rf"on the left .*({a}), on the right .*({b})|({b}) on the right, .*({a}) on the left",
            rf"({a}) (and|next to|beside) .*({b})",
        ),
        "column": (
            rf"({a}) (above|over|on top of) .*({b})|({b}) (below|under|underneath|beneath) .*({a})",
            rf"({a}) at the top and .*({b}) at the bottom|({a}) with .*({b}) below it",
        ),
    }[record.layout]
    if len(record.members) == 3:
        middle = _word(record.members[1])
        forms = (rf"({middle}) between .*({a}|{b}) and .*({a}|{b})", rf"({a}), .*({middle}) and .*({b})")
    assert any(re.search(form, text) for form in forms), (record, text)
    for member in record.members:
        if member.colour is not None:
            assert re.search(rf"{member.colour} ({_word(member)})", text), (record, text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**40))
def test_captions_of_counts_say_how_many(seed: int) -> None:
    record, text = _group(seed)
    if not record.counted:
        return
    said = {word for number, words in captions.NUMBERS.items() for word in words if _says(text, word)}
    assert said <= set(captions.NUMBERS[len(record.members)]), (record, text)
    many = plural(BY_NAME[record.members[0].concept])
    assert many is not None
    assert _says(text, many), (record, text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([(128, 96), (128, 128), (96, 128), (128, 80), (80, 128)]))
def test_things_of_a_group_stand_apart_on_whole_latents_in_reading_order(seed: int, size: tuple[int, int]) -> None:
    record, _ = _group(seed)
    width, height = size
    places = slots(len(record.members), record.layout, width=width, height=height, nudge=record.nudge)
    taken = np.zeros((height, width), int)
    for left, top, side in places:
        assert left % 8 == top % 8 == side % 8 == 0
        assert side >= 24
        assert 0 <= left <= width - side
        assert 0 <= top <= height - side
        taken[top : top + side, left : left + side] += 1
    assert taken.max() == 1
    axis = {"row": 0, "column": 1}.get(record.layout)
    if axis is not None:
        assert list(places) == sorted(places, key=lambda place: place[axis])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**40))
def test_no_training_picture_shows_a_held_out_colour(seed: int) -> None:
    rng = np.random.default_rng(seed)
    record = draw_record(rng, replace(PEOPLED, recolour=1.0, pairs=0.4, counts=0.2))
    shown = record.members if isinstance(record, Group) else (record,)
    assert not {(one.concept, one.colour) for one in shown} & HELD_OUT


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40))
def test_a_seed_gives_the_same_record_and_caption(seed: int) -> None:
    assert _pair(seed) == _pair(seed)
    assert _group(seed) == _group(seed)


def test_a_seed_gives_the_same_pixels(sprites: Sprites) -> None:
    def pictures() -> list[np.ndarray]:
        rng = np.random.default_rng(3)
        mix = Mix(pairs=0.3, counts=0.3, people=0.2)
        return [paint_record(draw_record(rng, mix), sprites, width=128, height=96) for _ in range(20)]

    first, second = pictures(), pictures()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({picture.tobytes() for picture in first}) == 20


def test_every_concept_scene_and_background_is_drawn() -> None:
    rng = np.random.default_rng(0)
    records = [compose.draw(rng, PEOPLED) for _ in range(6000)]
    assert {record.concept for record in records} == set(BY_NAME)
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


def test_a_bucket_does_not_depend_on_the_number_of_painters(sprites: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MANY", 0)
    composer = Composer(BucketSize(32, 32, CHUNK + 5, 1.0), MANY, seed=4)

    def painted(workers: int) -> list[tuple[np.ndarray, list[str]]]:
        with dataset.Painters(sprites, workers) as painters:
            return list(painters.chunks(composer.chunk, composer.size.count))

    alone, shared = painted(1), painted(2)
    assert [len(pictures) for pictures, _ in alone] == [CHUNK, 5]
    for (ours, said), (theirs, also) in zip(alone, shared, strict=True):
        assert np.array_equal(ours, theirs)
        assert said == also
