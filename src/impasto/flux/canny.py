"""A picture's edges, as FLUX.1 Canny was trained to draw after. Through OpenCV, of the extra `control`."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

LOW, HIGH = 50, 200  # of the gradient; BFL's own
DARK = 32  # a level below it counts as black
LINE = 5  # pixels across: nothing of a line is left where the darkest pixel of so many a side is taken


def available() -> bool:
    return importlib.util.find_spec("cv2") is not None


def edges(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] → [H, W, 3]: white edges on black."""
    import cv2

    found = cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)
    return np.repeat(np.asarray(found, np.uint8)[..., None], 3, axis=2)


def is_map(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture is a map of edges already: without colour, and black and white, or thin lines on black whose
    sides are grey because the map was made smaller. A photograph in grey has broad bright parts.
    """
    grey = pixels.max(axis=2)
    if ((grey - pixels.min(axis=2)) < DARK // 2).mean() <= 0.98:
        return False
    bright = grey > 255 - DARK
    if ((grey < DARK) | bright).mean() > 0.98:
        return bool(bright.mean() < 0.5)
    broad = np.asarray(Image.fromarray(grey).filter(ImageFilter.MinFilter(LINE))) >= DARK
    return bool((grey < DARK).mean() > 0.4 and broad.mean() < 0.01)
