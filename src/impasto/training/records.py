"""Any training picture: one thing (`compose`) or several (`groups`), drawn as a record and painted from it."""

from typing import TypeAlias

import numpy as np

from impasto.training.compose import Composition, Mix, draw, paint
from impasto.training.groups import Group, draw_count, draw_pair, paint_group
from impasto.training.sprites import Pixels, Sprites

Record: TypeAlias = Composition | Group


def draw_record(rng: np.random.Generator, mix: Mix) -> Record:
    """One record of the mix; the same generator state gives the same record."""
    share = rng.random()
    if share < mix.pairs:
        return draw_pair(rng, mix)
    if share < mix.pairs + mix.counts:
        return draw_count(rng, mix)
    return draw(rng, mix)


def paint_record(record: Record, sprites: Sprites, *, width: int, height: int) -> Pixels:
    """The picture of a record: (height, width, 3) uint8."""
    if isinstance(record, Group):
        return paint_group(record, sprites, width=width, height=height)
    return paint(record, sprites, width=width, height=height)
