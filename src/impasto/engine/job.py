"""A job: the engine's form of a request. No torch, no wire words; everything decided, nothing optional left open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Format = Literal["jpeg", "png"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`num_images` pictures of one prompt. Image i depends on (seed, i) only."""

    request_id: str
    model: str  # name in flux.models
    prompt: str
    width: int  # pixels of the file, exact
    height: int
    steps: int
    guidance: float
    seed: int  # 0 <= seed < 2**64
    num_images: int = 1
    format: Format = "jpeg"
    safety_tolerance: int = 2  # 1 strictest … 6
    safety_checker: bool = True
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One finished image: encoded bytes, as they will be served."""

    data: bytes
    media_type: str  # image/jpeg | image/png
    width: int
    height: int
    nsfw: bool
    nsfw_score: float  # 0..1, of the classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    request_id: str
    pictures: tuple[Picture, ...]
    seed: int
    timings: dict[str, float] = field(
        default_factory=dict[str, float]
    )  # seconds: inference, text_encode, denoise, decode, …
    warnings: tuple[str, ...] = ()
