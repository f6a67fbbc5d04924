"""Things on a plain ground, found by colour alone: the foreground, its parts, their crops, their dominant colour."""

from __future__ import annotations

from collections import deque

import numpy as np
from PIL import Image

from impasto.training.metrics import corner_colour
from impasto.training.sprites import Pixels

SIDE = 48
"""Of a crop, in pixels."""
_APART = 42.0
"""Distance in sRGB (0..255) from the ground's colour at which a pixel is foreground."""
_PART = 0.012
"""The smallest part, as a share of the picture."""


def foreground(picture: Pixels, ground: tuple[float, float, float] | None = None) -> np.ndarray:
    """Where the picture is not its ground (the median of its corners): bool [h, w]."""
    plain = np.array(corner_colour(picture) if ground is None else ground)
    return np.square(picture.astype(np.float32) - plain.astype(np.float32)).sum(-1) > _APART**2


def crop(picture: Pixels, ground: tuple[float, float, float] | None = None) -> Pixels:
    """The foreground's square, with a margin, filled up with the ground: uint8 [48, 48, 3]."""
    plain = corner_colour(picture) if ground is None else ground
    rows, columns = np.nonzero(foreground(picture, plain))
    if len(rows) < 8:
        rows, columns = np.array([0, picture.shape[0] - 1]), np.array([0, picture.shape[1] - 1])
    # a stray pixel must not decide the frame
    top, bottom = np.quantile(rows, (0.005, 0.995)).round().astype(int)
    left, right = np.quantile(columns, (0.005, 0.995)).round().astype(int)
    side = int(1.12 * max(bottom - top + 1, right - left + 1)) + 1
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    colour = tuple(int(value) for value in plain)
    page = Image.new("RGB", (side, side), colour)
    page.paste(Image.fromarray(np.ascontiguousarray(picture)), (-x, -y))
    return np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def parts(picture: Pixels) -> list[tuple[slice, slice]]:
    """The boxes of the connected parts of the foreground that are no specks, left to right."""
    mask = foreground(picture)
    height, width = mask.shape
    seen = np.zeros_like(mask)
    boxes: list[tuple[slice, slice]] = []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        seen[start] = True
        queue, found = deque([start]), [start]
        while queue:
            y, x = queue.popleft()
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < height and 0 <= nx < width and mask[ny, nx] and not seen[ny, nx]:
                    seen[ny, nx] = True
                    queue.append((ny, nx))
                    found.append((ny, nx))
        if len(found) >= _PART * mask.size:
            ys, xs = zip(*found, strict=True)
            boxes.append((slice(min(ys), max(ys) + 1), slice(min(xs), max(xs) + 1)))
    return sorted(boxes, key=lambda box: box[1].start)


def halves(picture: Pixels, *, across: bool) -> tuple[Pixels, Pixels]:
    """Left and right half, or upper and lower."""
    height, width = picture.shape[:2]
    if across:
        return picture[:, : width // 2], picture[:, width // 2 :]
    return picture[: height // 2], picture[height // 2 :]


_HUES = (("red", 14), ("orange", 40), ("yellow", 66), ("green", 168), ("blue", 252), ("purple", 306), ("pink", 346))
"""Name and end, in degrees, of every hue's range; above the last it is red again."""


def dominant_colour(picture: Pixels) -> str:
    """The name of the commonest colour of the foreground; gray and brown are no names, so they never win."""
    pixels = picture[foreground(picture)].astype(float) / 255
    high, low = pixels.max(-1), pixels.min(-1)
    saturation = (high - low) / np.maximum(high, 1e-6)
    hue = np.asarray(Image.fromarray(picture).convert("HSV"))[foreground(picture)][..., 0] * (360 / 255)
    counts = {"white": int(((saturation < 0.16) & (high > 0.72)).sum()), "black": int((high < 0.3).sum())}
    vivid = (saturation > 0.25) & (high >= 0.3)
    start = 0.0
    for name, end in _HUES:
        counts[name] = int((vivid & (hue >= start) & (hue < end)).sum())
        start = end
    counts["red"] += int((vivid & (hue >= start)).sum())
    return max(counts, key=lambda name: counts[name])
