"""Pictures of several things: two in a relation, one between two others, or one thing two to four times.

Like a single composition, a group is drawn as a record first; `paint_group` and `captions` both read it. Every thing
stands in a slot of rows and columns, in sizes and places of whole latents, so that a shape meets the grid in few ways.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from impasto.training.compose import Mix, draw_colour, draw_ground, draw_style, ground, lay, pick, sprite, to_bytes
from impasto.training.concepts import CONCEPTS, COUNTED, FIRST, Concept
from impasto.training.sprites import Pixels, Sprites

Layout = Literal["row", "column", "grid"]

CELL = 8
"""Pixels a latent."""


@dataclass(frozen=True, slots=True)
class Member:
    """One thing of a group; `colour` None: its own colours."""

    concept: str
    colour: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Everything about one picture of several things.

    `members` in reading order: left to right, or top to bottom; a count repeats one member. `nudge`, one or minus one
    when drawn, moves all of them across the line that they stand in, so that every pair meets the grid of tokens in
    one way. Exactly one of `background` and `scene` is set.
    """

    members: tuple[Member, ...]
    layout: Layout
    style: str
    background: str | None
    scene: str | None
    nudge: int
    tint: tuple[int, int, int]

    @property
    def counted(self) -> bool:
        """Whether this is one thing several times."""
        return len(set(self.members)) == 1


def _member(rng: np.random.Generator, mix: Mix, taken: set[str]) -> tuple[Concept, Member]:
    # two draws in three from the concepts of the first version, whose shapes are known already
    limit = FIRST if rng.random() < 0.67 else mix.things or len(CONCEPTS)
    concept = pick(rng, [c for c in COUNTED if _PLACES[c.name] < limit and c.name not in taken])
    return concept, Member(concept.name, draw_colour(rng, concept, 0.7 * mix.recolour))


_PLACES = {concept.name: place for place, concept in enumerate(CONCEPTS)}


def draw_pair(rng: np.random.Generator, mix: Mix) -> Group:
    """Two different things side by side or one above the other, or, once in eight, three in a row."""
    count = 3 if rng.random() < 0.125 else 2
    layout: Layout = "column" if count == 2 and rng.random() < 0.45 else "row"
    concepts: list[Concept] = []
    members: list[Member] = []
    for _ in range(count):
        concept, member = _member(rng, mix, {c.name for c in concepts})
        concepts.append(concept)
        members.append(member)
    return _grounded(rng, mix, tuple(concepts), tuple(members), layout)


def draw_count(rng: np.random.Generator, mix: Mix) -> Group:
    """One thing two, three or four times."""
    concept, member = _member(rng, mix, set())
    count = int(rng.integers(2, 5))
    return _grounded(rng, mix, (concept,), (member,) * count, "row" if count == 2 else "grid")


def _grounded(
    rng: np.random.Generator, mix: Mix, concepts: tuple[Concept, ...], members: tuple[Member, ...], layout: Layout
) -> Group:
    taken = {member.colour or concept.colour for concept, member in zip(concepts, members, strict=False)}
    background, scene = draw_ground(rng, mix, taken)
    r, g, b = (int(v) for v in rng.integers(-mix.tint, mix.tint + 1, 3))
    return Group(members, layout, draw_style(rng, mix), background, scene, int(rng.choice((-1, 1))), (r, g, b))


def slots(count: int, layout: Layout, *, width: int, height: int, nudge: int) -> tuple[tuple[int, int, int], ...]:
    """(left, top, side) of every member in pixels, multiples of eight, wholly inside the picture."""
    columns, rows = {"row": (count, 1), "column": (1, count), "grid": (2, (count + 1) // 2)}[layout]
    across, down = width // columns, height // rows
    gap = CELL // 2 if layout == "grid" else 0
    side = min(min(across, down) - gap, 3 * max(width, height) // 8) // CELL * CELL
    places: list[tuple[int, int, int]] = []
    for i in range(count):
        column, row = float(i % columns), i // columns
        if layout == "grid" and i == count - 1 and count % 2:
            column = (columns - 1) / 2
        left = _snapped((2 * column + 1) * width / (2 * columns) - side / 2, width - side)
        top = _snapped((2 * row + 1) * height / (2 * rows) - side / 2, height - side)
        if layout == "row":
            top = _snapped(top + CELL * nudge, height - side)
        elif layout == "column":
            left = _snapped(left + 2 * CELL * nudge, width - side)
        places.append((left, top, side))
    return tuple(places)


def _snapped(start: float, room: int) -> int:
    return min(max(round(start / CELL), 0), room // CELL) * CELL


def paint_group(record: Group, sprites: Sprites, *, width: int, height: int) -> Pixels:
    """The picture of a group: (height, width, 3) uint8."""
    canvas = ground(record, width, height)
    places = slots(len(record.members), record.layout, width=width, height=height, nudge=record.nudge)
    for member, (left, top, side) in zip(record.members, places, strict=True):
        lay(canvas, sprite(sprites, member.concept, record.style, member.colour), left=left, top=top, side=side)
    return to_bytes(canvas)
