"""Captions: several grammars over one composition record.

What a caption leaves out has one meaning: no style word is the 3D style, no background word is white, no colour word
is the object's own colour. So the model has one picture to learn for the shortest prompt, not an average of many.
"""

import numpy as np

from impasto.training.compose import Composition
from impasto.training.concepts import BY_NAME

STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "3d": ("3d render", "3d emoji", "3d icon"),
    "flat": ("flat icon", "flat design", "flat vector icon", "flat illustration"),
    "cartoon": ("cartoon", "cartoon sticker", "cartoon emoji"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "gray": ("gray", "grey"),
    "light blue": ("light blue", "sky blue"),
    "navy": ("navy", "dark blue", "navy blue"),
    "purple": ("purple", "violet"),
    "beige": ("beige", "cream"),
    "white": ("white", "white", "plain white"),
}
SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "meadow": ("on a green meadow", "on grass under a blue sky", "in a field"),
    "beach": ("on a beach", "on the beach by the sea"),
    "night": ("in space", "in the night sky", "at night with stars"),
    "sunset": ("at sunset", "in front of a sunset sky"),
    "snow": ("in the snow", "on snow"),
}
_LEADS = ("a picture of", "an image of", "an illustration of", "a drawing of")
_TAILS = ("high quality", "centered", "simple", "detailed")


def article(noun: str) -> str:
    """The noun with its indefinite article, or "the" for the things of which there is one."""
    if noun.split()[-1] in {"sun", "sunshine"}:
        return f"the {noun}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def caption(record: Composition, rng: np.random.Generator) -> str:
    """One caption of a record; the same generator state gives the same words."""
    concept = BY_NAME[record.concept]
    noun = _pick(rng, concept.synonyms) if concept.synonyms and rng.random() < 0.35 else concept.name
    colour = record.colour or (concept.colour if rng.random() < 0.35 and concept.colour not in noun.split() else None)
    if colour is not None:
        noun = f"{colour} {noun}"
    elif concept.animal and rng.random() < 0.15:
        noun = f"cute {noun}"
    style = None if record.style == "3d" and rng.random() < 0.75 else _pick(rng, STYLE_WORDS[record.style])
    place = _place(record, rng)
    return _sentence(noun, style, place, rng)


def _place(record: Composition, rng: np.random.Generator) -> str | None:
    """Words for the background, or None where white is left unsaid."""
    if record.scene is not None:
        return _pick(rng, SCENE_WORDS[record.scene])
    assert record.background is not None
    if record.background == "white" and rng.random() < 0.65:
        return None
    return f"{_pick(rng, BACKGROUND_WORDS.get(record.background, (record.background,)))} background"


def _sentence(noun: str, style: str | None, place: str | None, rng: np.random.Generator) -> str:
    """Put the parts together: half natural sentences, a third phrases, the rest comma tags."""
    form = rng.random()
    subject = article(noun)
    if form < 0.2:
        parts = [noun, place, style]
        text = ", ".join(part for part in parts if part)
    elif style is not None:
        text = f"{article(style)} of {subject}" if form < 0.75 else f"{subject}, {style}"
        text = _join(text, place, rng)
    else:
        text = f"{_pick(rng, _LEADS)} {subject}" if rng.random() < 0.2 else subject
        text = _join(text, place, rng)
    return f"{text}, {_pick(rng, _TAILS)}" if rng.random() < 0.05 else text


def _join(text: str, place: str | None, rng: np.random.Generator) -> str:
    if place is None:
        return text
    if not place.endswith("background"):
        return f"{text} {place}"
    return f"{text} on {article(place)}" if rng.random() < 0.7 else f"{text}, {place}"
