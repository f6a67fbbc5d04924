"""Sizes that Kontext was trained in. No torch: the server process decides sizes, too."""

from __future__ import annotations

import math

KONTEXT_SIZES = (  # (height, width)
    (1568, 672), (1504, 688), (1456, 720), (1392, 752), (1328, 800), (1248, 832), (1184, 880), (1104, 944),
    (1024, 1024),
    (944, 1104), (880, 1184), (832, 1248), (800, 1328), (752, 1392), (720, 1456), (688, 1504), (672, 1568),
)  # fmt: skip
_AREA = 1024 * 1024


def kontext_size(height: int, width: int) -> tuple[int, int]:
    """The trained (height, width) whose ratio is nearest to a picture's."""
    return min(KONTEXT_SIZES, key=lambda size: (abs(width / height - size[1] / size[0]), size[1], size[0]))


def context_size(picture: tuple[int, int], drawn: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which Kontext sees a picture of that size for a result of the native size `drawn`.

    The trained one, as long as the result is about as large. Positions are counted in tokens from the top left corner:
    of a picture on a larger grid than its own a smaller result would show that corner only. So a result of the
    picture's ratio and another area has the picture on its own grid.
    """
    trained = kontext_size(*picture)
    stretched = (picture[1] * drawn[0]) / (picture[0] * drawn[1])
    larger = (drawn[0] * drawn[1]) / (trained[0] * trained[1])
    return drawn if 1 / 1.1 < stretched < 1.1 and not 0.8 < larger < 1.25 else trained


def megapixel(across: int, down: int) -> tuple[int, int]:
    """(height, width) of the ratio `across` : `down` at one megapixel, floored to multiples of 16 (BFL's rule)."""
    ratio = across / down
    return math.floor(math.sqrt(_AREA / ratio) / 16) * 16, math.floor(math.sqrt(_AREA * ratio) / 16) * 16
