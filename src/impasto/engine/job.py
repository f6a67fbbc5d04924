"""A job: the engine's form of a request. No torch, no wire words; everything decided, nothing optional left open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["jpeg", "png"]
Acceleration = Literal["none", "regular", "high"]
"""How much of the picture may change for speed; none: nothing."""
ImageRole = Literal["init", "region", "prompt", "fill", "mask", "canny", "depth", "context"]
"""What a caller's picture is for: image-to-image starts from it, inpainting draws it anew where its region is white;
redux and ultra take after it; Fill draws into it, where the mask is white; Canny and Depth draw along it; Kontext
changes it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the caller should know though the request succeeded; the wire shows it as a warning."""

    code: str  # size_rounded, prompt_cut, field_ignored, image_downscaled, safety_blackened, …
    message: str  # one sentence, with the remedy if there is one
    field: str | None = None  # of the input


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """A picture that the caller gave, checked and made plain by the gateway: RGB, upright, bounded in size."""

    data: bytes  # PNG
    width: int
    height: int
    role: ImageRole
    # init: 0 (unchanged) to 1 (only the prompt); prompt: 0 (text only) to 1 (picture only), None: what suits the model
    strength: float | None
    field: str = "image_url"  # where errors about it belong
    sent: tuple[int, int] = (0, 0)  # width and height as they came, upright


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraInput:
    """A LoRA that the caller named, brought onto this machine by the gateway."""

    path: str  # of the file, here
    digest: str  # SHA-256 of its bytes
    scale: float
    name: str  # as the caller wrote it, for messages


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
    seed: int  # what the noise is drawn from: 0 <= seed < 2**64 in a runner, any number before (`fields.noise_seed`)
    sent_seed: str = ""  # the seed as the caller sent it where that differs, for messages
    unheard: str = ""  # the caller's words where they do not count; the safety checks read them all the same
    negative: str | None = None  # what a second pass of each step is told; None: the model's own way
    cfg: float = 1.0  # how far from it, on top of `guidance`; at most 1: no such pass
    shift: tuple[float, float] | None = None  # of the schedule, for small and for large pictures; None: the model's
    num_images: int = 1
    format: Format = "jpeg"
    safety_tolerance: int = 2  # 1 strictest … 6
    safety_checker: bool = True
    priority: int = 0
    scope: str = ""  # whose it is, opaque: what one scope has brought about serves no other; "": nobody's
    images: tuple[ImageInput, ...] = ()
    loras: tuple[LoraInput, ...] = ()
    raw: bool = False  # ultra: a less polished look
    acceleration: Acceleration | None = None  # None: the caller did not say
    paste_back: bool = False  # Fill: the picture's own pixels where the mask is not white
    notices: tuple[Notice, ...] = ()  # found on the way here: size rounded, image downscaled
    preview_every: int = 0  # steps between previews; 0: none
    endpoint: str = ""  # whose own code draws it; "": nobody's
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])  # the input, for that code


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
    notices: tuple[Notice, ...] = ()  # the job's own first, then the engine's
