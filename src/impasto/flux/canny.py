"""A picture's edges, as FLUX.1 Canny was trained to draw after. Through OpenCV, which comes with `impasto[control]`."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 50, 200  # of the gradient; BFL's own


def available() -> bool:
    return importlib.util.find_spec("cv2") is not None


def edges(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] → [H, W, 3]: white edges on black."""
    import cv2

    found = cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)
    return np.repeat(np.asarray(found, np.uint8)[..., None], 3, axis=2)


def is_map(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture is a map of edges already: almost all of it black or white, without colour."""
    grey = pixels.max(axis=2)
    flat = (grey - pixels.min(axis=2)) < 16
    return bool(((grey < 32) | (grey > 223)).mean() > 0.98 and flat.mean() > 0.98 and (grey > 223).mean() < 0.5)
