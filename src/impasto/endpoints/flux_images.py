"""Endpoints that start from a picture: image-to-image, and the redux family that takes after one.

`FluxProRedux` and `FluxProUltraTextToImageInputRedux` are the seed page's types; the others follow reference
fal-endpoints B2. How much a redux picture is like its reference is fixed where the wire has no field for it.
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from impasto.endpoints.base import Endpoint, Wanted
from impasto.endpoints.fields import (
    LIMITS,
    Guidance,
    NumImages,
    OutputFormat,
    Prompt,
    SafetyChecker,
    Seed,
    Size,
    Steps,
    SyncMode,
    WireInput,
)
from impasto.endpoints.flux_open import DEV, DEV_EXAMPLE, SCHNELL, Acceleration
from impasto.endpoints.flux_pro import (
    EXAMPLE,
    FLUX_PRO,
    FLUX_PRO_V1_1_ULTRA,
    FluxProTextToImageInput,
    FluxProUltraTextToImageInput,
    takes_after,
)
from impasto.engine.job import Job, Notice

PICTURE = "https://fal.media/files/kangaroo/acQvq-Kmo2lajkgvcEHdv.png"
START = "https://fal.media/files/koala/Chls9L2ZnvuipUTEwlnJC.png"

SeedImageUrl = Annotated[
    str,
    Field(
        min_length=1,
        description="The image URL to generate an image from. Needs to match the dimensions of the mask.",
    ),
]
ImageUrl = Annotated[str, Field(min_length=1, description="The URL of the image to generate an image from.")]
ManySteps = Annotated[int, Field(ge=10, le=50, description="The number of inference steps to perform.")]
FewSteps = Annotated[int, Field(ge=1, le=12, description="The number of inference steps to perform.")]


class FluxProRedux(FluxProTextToImageInput):
    prompt: Prompt = Field(default="", examples=[EXAMPLE["prompt"]])
    image_url: SeedImageUrl = Field(examples=[PICTURE])


class FluxProUltraTextToImageInputRedux(FluxProUltraTextToImageInput):
    prompt: Prompt = Field(default="", examples=[EXAMPLE["prompt"]])
    image_url: SeedImageUrl = Field(examples=[PICTURE])
    image_prompt_strength: float = Field(
        default=0.1, ge=0, le=1, allow_inf_nan=False, description="The strength of the image prompt, between 0 and 1."
    )


class BaseImageToInput(WireInput):
    image_url: ImageUrl = Field(examples=[START])
    strength: float = Field(
        default=0.95, ge=0.01, le=1, allow_inf_nan=False, description="How far to go from the image; 1 ignores it."
    )
    num_inference_steps: ManySteps = 40
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    seed: Seed = None
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"


class BaseReduxInput(WireInput):
    image_url: ImageUrl = Field(examples=[PICTURE])
    image_size: Size = "landscape_4_3"
    num_inference_steps: Steps = 28
    seed: Seed = None
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"


class SchnellReduxInput(WireInput):
    image_url: ImageUrl = Field(examples=[PICTURE])
    num_inference_steps: FewSteps = 4
    image_size: Size = "landscape_4_3"
    seed: Seed = None
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"


def size_of_image(job: Job) -> Job:
    """Give the job the size of its image, as near as the model can draw, and a notice where it differs."""
    image = job.images[0]
    longest = max(image.width, image.height)
    scale = min(1.0, LIMITS.max_side / longest)
    width, height = LIMITS.fit(round(image.width * scale), round(image.height * scale))
    why = f"sides are multiples of {LIMITS.multiple}, {LIMITS.min_side} to {LIMITS.max_side}, of images up to 2 MP"
    return resized(job, width=max(width, LIMITS.min_side), height=max(height, LIMITS.min_side), why=why)


def resized(job: Job, *, width: int, height: int, why: str, field: str | None = None) -> Job:
    """Set the size that follows from the job's first image. Adds `size_rounded` where the result is not of its size.

    `field`: of the input; None: the image's own.
    """
    image = job.images[0]
    before = image.sent if all(image.sent) else (image.width, image.height)
    job = replace(job, width=width, height=height)
    if before == (width, height):
        return job
    message = f"The image has {before[0]}x{before[1]} pixels, the result {width}x{height}: {why}."
    notice = Notice(code="size_rounded", message=message, field=field or image.field.partition(".")[0])
    return replace(job, notices=(*job.notices, notice))


def starts_from(input_: Any) -> tuple[Wanted, ...]:
    return (Wanted(url=input_.image_url, role="init", strength=input_.strength),)


PRO_EXAMPLE: dict[str, Any] = EXAMPLE | {"image_url": PICTURE}
REDUX_EXAMPLE: dict[str, Any] = {k: v for k, v in DEV_EXAMPLE.items() if k != "prompt"} | {"image_url": PICTURE}

PRO_REDUX = replace(
    FLUX_PRO,
    id="fal-ai/flux-pro/v1/redux",
    title="FLUX.1 [pro] Redux",
    description="Variations of a picture, with a prompt or without.",
    Input=FluxProRedux,
    example=PRO_EXAMPLE,
    category="image-to-image",
    pictures=takes_after,
)
ULTRA_REDUX = replace(
    FLUX_PRO_V1_1_ULTRA,
    id="fal-ai/flux-pro/v1.1-ultra/redux",
    title="FLUX1.1 [pro] ultra Redux",
    description="Four megapixels from a prompt and a picture that it takes after.",
    Input=FluxProUltraTextToImageInputRedux,
    example=FLUX_PRO_V1_1_ULTRA.example | {"image_url": PICTURE, "image_prompt_strength": 0.1},
    category="image-to-image",
)
IMAGE_TO_IMAGE = replace(
    DEV,
    id="fal-ai/flux/dev/image-to-image",
    title="FLUX.1 [dev] Image to Image",
    description="A picture drawn anew after a prompt, in its own size.",
    Input=BaseImageToInput,
    example={k: v for k, v in DEV_EXAMPLE.items() if k != "image_size"}
    | {"image_url": START, "strength": 0.95, "num_inference_steps": 40},
    category="image-to-image",
    pictures=starts_from,
    with_pictures=size_of_image,
)
DEV_REDUX = replace(
    DEV,
    id="fal-ai/flux/dev/redux",
    title="FLUX.1 [dev] Redux",
    description="Variations of a picture.",
    Input=BaseReduxInput,
    example=REDUX_EXAMPLE,
    category="image-to-image",
    pictures=takes_after,
)
SCHNELL_REDUX = replace(
    SCHNELL,
    id="fal-ai/flux/schnell/redux",
    title="FLUX.1 [schnell] Redux",
    description="Variations of a picture in 1 to 4 steps.",
    Input=SchnellReduxInput,
    example={k: v for k, v in REDUX_EXAMPLE.items() if k != "guidance_scale"} | {"num_inference_steps": 4},
    category="image-to-image",
    pictures=takes_after,
)
FLUX_IMAGES: tuple[Endpoint, ...] = (
    PRO_REDUX,
    replace(PRO_REDUX, id="fal-ai/flux-pro/v1.1/redux", title="FLUX1.1 [pro] Redux", model="flux-pro-1.1"),
    ULTRA_REDUX,
    IMAGE_TO_IMAGE,
    DEV_REDUX,
    SCHNELL_REDUX,
    replace(IMAGE_TO_IMAGE, id="fal-ai/flux-1/dev/image-to-image"),
    replace(DEV_REDUX, id="fal-ai/flux-1/dev/redux"),
    replace(SCHNELL_REDUX, id="fal-ai/flux-1/schnell/redux"),
)
