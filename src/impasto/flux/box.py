"""The part of a native picture that has the asked ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Box:
    """The part of a picture that has the asked ratio, in fractions of pixels."""

    top: float
    left: float
    bottom: float
    right: float

    @classmethod
    def within(cls, native_height: int, native_width: int, *, height: int, width: int) -> Box:
        """The largest centred box of ratio `width` : `height` in a picture of the native size."""
        h = min(native_height, native_width * height / width)
        w = min(native_width, native_height * width / height)
        top, left = (native_height - h) / 2, (native_width - w) / 2
        return cls(top, left, top + h, left + w)

    def cut(self, pixels: Tensor) -> tuple[Tensor, Box]:
        """Cuts away the whole pixels outside; returns the rest and this box within it."""
        top, left = math.floor(self.top), math.floor(self.left)
        rest = pixels[..., top : math.ceil(self.bottom), left : math.ceil(self.right)]
        return rest, Box(self.top - top, self.left - left, self.bottom - top, self.right - left)

    def times(self, factor: int) -> Box:
        return Box(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)

    def resample(self, pixels: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
        """The box of `pixels` at exactly `height` x `width`, by Lanczos."""
        corners = (self.left, self.top, self.right, self.bottom)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box=corners)
        return np.array(image)
