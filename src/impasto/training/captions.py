"""Captions: several grammars over one record, of one thing or of several.

What a caption leaves out has one meaning: no style word is the 3D style, no background word is white, no colour word
is the object's own colour, no skin word is the yellow of emoji. So the model has one picture to learn for the shortest
prompt, not an average of many.
"""

from typing import Any

import numpy as np

from impasto.training.compose import BACKGROUNDS, Composition, Grounded, Mix, known
from impasto.training.concepts import BY_NAME, CONCEPTS, OBJECT_COLOURS, plural
from impasto.training.groups import Group, Member
from impasto.training.records import Record

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
BACKGROUND_NOUNS = ("background", "backdrop", "wall")
SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "meadow": ("on a green meadow", "on grass under a blue sky", "in a field", "on a lawn"),
    "beach": ("on a beach", "on the beach by the sea", "at the seaside"),
    "night": ("in space", "in the night sky", "at night with stars", "under the stars"),
    "sunset": ("at sunset", "in front of a sunset sky", "in the evening light"),
    "snow": ("in the snow", "on snow", "in a snowy landscape"),
}
NUMBERS = {2: ("two", "two", "2"), 3: ("three", "three", "3"), 4: ("four", "four", "4")}
_LEADS = (
    *("a picture of", "an image of", "an illustration of", "a drawing of"),
    *("there is", "draw", "show me", "an icon of"),
)
_RELATIONS = (
    *("left", "right", "above", "below", "under", "underneath", "beneath", "over", "top", "bottom"),
    *("between", "next", "beside", "side"),
)
_SKIN_WORDS = ("light", "medium", "dark", "skinned", "skin", "tone")
_COLOUR_WORDS = ("color", "colour", "colored", "coloured", "single")
_TAILS = ("high quality", "centered", "simple", "detailed")
_UNCOUNTED = {"scissors", "grapes", "cherries", "fries", "chips", "fire", "bread", "toast", "cheese"}
_ADJECTIVES = ("cute", "little", "small", "lovely", "happy")


def article(noun: str) -> str:
    """The noun with its indefinite article, or "the" for the things of which there is one, or alone when it is not
    counted.
    """
    last = noun.split()[-1]
    if last in _UNCOUNTED and " of " not in noun:
        return noun
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('unicorn') else 'a'} {noun}"


def vocabulary(mix: Mix) -> dict[str, Any]:
    """What a model trained on the mix has seen words for: `things`, name to other names, and all other `words` of the
    grammar. The shape that `impasto.flux.vocabulary` reads.
    """
    things = {c.name: [*c.synonyms, *([many] if c in CONCEPTS and (many := plural(c)) else [])] for c in known(mix)}
    said = [*BACKGROUNDS, *OBJECT_COLOURS, *BACKGROUND_NOUNS, *_LEADS, *_TAILS, *_ADJECTIVES, *_COLOUR_WORDS]
    said += (*_RELATIONS,) if mix.pairs else ()
    said += (*_SKIN_WORDS,) if mix.people else ()
    for group in (STYLE_WORDS, BACKGROUND_WORDS, SCENE_WORDS, *([NUMBERS] if mix.counts else [])):
        said += [words for several in group.values() for words in several]
    words = {word for phrase in said for word in phrase.replace(",", " ").split()}
    return {"things": things, "words": sorted(words)}


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def caption(record: Record, rng: np.random.Generator) -> str:
    """One caption of a record; the same generator state gives the same words."""
    if isinstance(record, Group):
        if record.counted:
            subject = _several(record.members[0], len(record.members), rng)
        else:
            subject = related(record, nouns(record, rng), rng)
        return sentence(record, subject, subject, rng)
    terse = _noun(record, rng)
    subject = f"{_pick(rng, ('one', 'a single'))} {terse}" if _countable(record, rng) else article(terse)
    return sentence(record, terse, subject, rng)


def sentence(record: Record, terse: str, subject: str, rng: np.random.Generator) -> str:
    """A caption around its subject, and around its `terse` form where it is made of tags."""
    style = None if record.style == "3d" and rng.random() < 0.75 else _pick(rng, STYLE_WORDS[record.style])
    return _sentence(terse, subject, style, _place(record, rng), rng)


def _noun(record: Composition | Member, rng: np.random.Generator, synonyms: float = 0.4) -> str:
    """The thing's name with its adjectives. Shifted colours are always said; its own colour now and then."""
    concept = BY_NAME[record.concept]
    noun = _pick(rng, concept.synonyms) if concept.synonyms and rng.random() < synonyms else concept.name
    natural = concept.colour if rng.random() < 0.35 and concept.colour not in noun.split() else None
    colour = record.colour or natural
    if colour is not None:
        return f"{colour} {noun}"
    return f"{_pick(rng, _ADJECTIVES)} {noun}" if concept.animal and rng.random() < 0.15 else noun


def _countable(record: Composition, rng: np.random.Generator) -> bool:
    return rng.random() < 0.12 and plural(BY_NAME[record.concept]) is not None


def _several(member: Member, count: int, rng: np.random.Generator) -> str:
    concept = BY_NAME[member.concept]
    noun = plural(concept) or concept.name
    colour = member.colour or (concept.colour if rng.random() < 0.25 else None)
    return f"{_pick(rng, NUMBERS[count])} {f'{colour} {noun}' if colour else noun}"


def nouns(record: Group, rng: np.random.Generator) -> list[str]:
    """The members' names with article and adjectives."""
    return [article(_noun(member, rng, synonyms=0.15)) for member in record.members]


def related(record: Group, named: list[str], rng: np.random.Generator) -> str:
    """Where the members stand, seen from either; `named` are their `nouns`."""
    if len(named) == 3:
        first, middle, last = named
        ends = (first, last) if rng.random() < 0.5 else (last, first)
        return f"{middle} between {ends[0]} and {ends[1]}" if rng.random() < 0.8 else f"{first}, {middle} and {last}"
    form = rng.random()
    a, b = named
    if record.layout == "row":
        if form < 0.24:
            return f"{a} {_pick(rng, ('to the left of', 'left of', 'on the left of'))} {b}"
        if form < 0.48:
            return f"{b} {_pick(rng, ('to the right of', 'right of', 'on the right of'))} {a}"
        if form < 0.62:
            return f"{a} on the left and {b} on the right"
        if form < 0.74:
            return f"on the left {a}, on the right {b}"
        if form < 0.82:
            return f"{b} on the right, {a} on the left"
        return f"{a} {_pick(rng, ('and', 'and', 'next to', 'beside'))} {b}"
    if form < 0.38:
        return f"{a} {_pick(rng, ('above', 'above', 'over', 'on top of'))} {b}"
    if form < 0.76:
        return f"{b} {_pick(rng, ('below', 'under', 'underneath', 'beneath'))} {a}"
    return f"{a} at the top and {b} at the bottom" if form < 0.88 else f"{a} with {b} below it"


def _place(record: Grounded, rng: np.random.Generator) -> str | None:
    """Words for the background, or None where white is left unsaid."""
    if record.scene is not None:
        return _pick(rng, SCENE_WORDS[record.scene])
    assert record.background is not None
    if record.background == "white" and rng.random() < 0.65:
        return None
    colour = _pick(rng, BACKGROUND_WORDS.get(record.background, (record.background,)))
    return f"{colour} {BACKGROUND_NOUNS[0] if rng.random() < 0.8 else _pick(rng, BACKGROUND_NOUNS[1:])}"


def _sentence(terse: str, subject: str, style: str | None, place: str | None, rng: np.random.Generator) -> str:
    """Put the parts together: half natural sentences, a third phrases, the rest comma tags."""
    form = rng.random()
    if form < 0.2:
        parts = [terse, place, style]
        text = ", ".join(part for part in parts if part)
    elif style is not None:
        text = f"{article(style)} of {subject}" if form < 0.75 else f"{subject}, {style}"
        text = _join(text, place, rng)
    else:
        text = f"{_pick(rng, _LEADS)} {subject}" if rng.random() < 0.25 else subject
        text = _join(text, place, rng)
    return f"{text}, {_pick(rng, _TAILS)}" if rng.random() < 0.05 else text


def _join(text: str, place: str | None, rng: np.random.Generator) -> str:
    if place is None:
        return text
    if not place.endswith(BACKGROUND_NOUNS):
        return f"{text} {place}"
    form = rng.random()
    if form < 0.6 and place.endswith(BACKGROUND_NOUNS[0]):
        return f"{text} on {article(place)}"
    if form < 0.75:
        return f"{text} {_pick(rng, ('against', 'in front of'))} {article(place)}"
    return f"{text}, {place}" if form < 0.9 else f"{article(place)} with {text}"
