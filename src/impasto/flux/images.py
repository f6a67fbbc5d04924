"""A caller's picture as the autoencoder wants it: the native size, the asked ratio where the result will be cut."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto.flux.box import Box


def fit(pixels: NDArray[np.uint8], *, native: tuple[int, int], box: Box) -> NDArray[np.uint8]:
    """[H, W, 3] → [native height, native width, 3]; `native` is (height, width), `box` what of it will be shown.

    The largest centred part of the box's ratio (so nothing is stretched), by Lanczos as diffusers resizes, laid into
    the box; its edge is repeated around it.
    """
    top, left, bottom, right = math.floor(box.top), math.floor(box.left), math.ceil(box.bottom), math.ceil(box.right)
    part = Box.within(*pixels.shape[:2], height=bottom - top, width=right - left)
    inner = part.resample(pixels, height=bottom - top, width=right - left)
    around = ((top, native[0] - bottom), (left, native[1] - right), (0, 0))
    return np.ascontiguousarray(np.pad(inner, around, mode="edge"))


def white(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a mask [H, W, 3] asks for drawing: [H, W]. By its luminance (ITU-R 601), as diffusers reads masks."""
    return np.asarray(Image.fromarray(mask).convert("L")) >= 128


def resize(pixels: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
    """[H, W, 3] → [height, width, 3], by Lanczos, stretched where the ratios differ."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
