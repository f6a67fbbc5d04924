"""The pipeline that draws at once: deterministic test pictures without torch, for CI and for tests of the other rooms.

A picture is a soft two-colour gradient with some discs. Colours and places come from a hash of (prompt, seed, index,
size), so two requests differ visibly and the same request gives the same pixels on every machine.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from impasto.engine.job import Job
from impasto.engine.pipeline import Conditioning, Pixels, Step
from impasto.engine.senses import everything

DISCS = 5


class FakePipeline:
    """`step_seconds` is how long each step sleeps; 0 for as fast as possible."""

    def __init__(self, model: str = "fake", *, step_seconds: float = 0.0) -> None:
        self.models = (model,)
        self.senses = {model: everything(model)}
        self.device = "cpu"
        self.dtype = "uint8"
        self.residency = "no weights"
        self.warm_up_images = ()
        self.overlaps = True
        self._step_seconds = step_seconds

    @property
    def counters(self) -> Mapping[str, int]:
        return {}

    def encode(self, job: Job) -> Conditioning:
        return Conditioning(job.prompt)

    def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
        identity = f"{conditioning.value}\0{job.seed}\0{index}\0{job.width}x{job.height}"
        for image in job.images:
            identity += f"\0{image.role}\0{image.strength}\0{hashlib.sha256(image.data).hexdigest()}"
        for number in range(1, job.steps + 1):
            time.sleep(self._step_seconds)
            yield Step(number, job.steps, identity, partial(self._preview, identity, job))

    def _preview(self, identity: str, job: Job) -> Pixels:
        return draw(identity, width=max(job.width // 8, 1), height=max(job.height // 8, 1))

    def decode(self, job: Job, latents: Any) -> Pixels:
        return draw(str(latents), width=job.width, height=job.height)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def free_memory(self) -> None:
        pass


def draw(identity: str, *, width: int, height: int) -> Pixels:
    """[height, width, 3] from the hash of `identity`, in integer arithmetic: equal bytes everywhere."""
    dice = hashlib.shake_256(identity.encode()).digest(6 + 6 * DISCS)
    start, end = np.frombuffer(dice[:3], np.uint8).astype(np.int32), np.frombuffer(dice[3:6], np.uint8).astype(np.int32)
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None, :]
    share = (y * 256 // height + x * 256 // width)[..., None]  # 0..510 from corner to corner
    pixels = (start + (end - start) * share // 512).astype(np.uint8)
    for disc in range(DISCS):
        red, green, blue, across, down, size = dice[6 + 6 * disc : 12 + 6 * disc]
        radius = (16 + size // 4) * min(width, height) // 512
        inside = (x - across * width // 256) ** 2 + (y - down * height // 256) ** 2 <= radius**2
        pixels[inside] = (red, green, blue)
    return pixels
