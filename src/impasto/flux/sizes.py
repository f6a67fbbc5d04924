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


def megapixel(across: int, down: int) -> tuple[int, int]:
    """(height, width) of the ratio `across` : `down` at one megapixel, floored to multiples of 16 (BFL's rule)."""
    ratio = across / down
    return math.floor(math.sqrt(_AREA / ratio) / 16) * 16, math.floor(math.sqrt(_AREA * ratio) / 16) * 16
